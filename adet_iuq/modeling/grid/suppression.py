"""Suppression of duplicates among masks: point, matrix and greedy mask NMS (docs/parity/solov2.md, "Inference").

Shapes: N masks of one image sorted by score, best first; M cells of the dense map.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_CELLS = 8192  # number of cells, of all masks of one class, that are multiplied at a time


def point_nms(scores: Tensor) -> Tensor:
    """Keeps a score that is at least those of the cells above, to the left, and above left; other scores become 0.

    Args:
        scores: (B, C, S, S), not negative.
    """
    best = F.max_pool2d(scores, 2, stride=1, padding=1)[:, :, :-1, :-1]
    return scores * (best == scores)


def same_class_ious(masks: Tensor, which: Tensor, areas: Tensor, classes: Tensor) -> Tensor:
    """The IoU of every mask with the masks of its class that have lower scores.

    Args:
        masks: (U, M) bool, distinct masks.
        which: (N,) long, the row in `masks` of each result, sorted by score; a mask may stand for several classes.
        areas: (N,) float, the number of cells in each result's mask, at least 1.
        classes: (N,) long, the class of each result.

    Returns:
        (N, N) float32, strictly upper triangular; 0 between different classes.
    """
    ious = torch.zeros(len(which), len(which), device=masks.device)
    labels, counts = classes.unique(return_counts=True)
    for label in labels[counts > 1]:
        rows = torch.nonzero(classes == label)[:, 0]
        inter = torch.zeros(len(rows), len(rows), device=masks.device)
        for part in masks.split(CHUNK_CELLS, dim=1):
            values = part[which[rows]].float()
            inter += values @ values.T
        area = areas[rows].float()
        ious[rows[:, None], rows] = inter / (area[:, None] + area - inter)
    return ious.triu(diagonal=1)


def matrix_nms(scores: Tensor, ious: Tensor, kernel: str, sigma: float) -> Tensor:
    """The scores, reduced by the overlap of each mask with better ones (SOLOv2, arXiv 2003.10152, equation 4).

    Args:
        scores: (N,), sorted.
        ious: (N, N) from `same_class_ious`.
        kernel: "gaussian" or "linear".
        sigma: the sigma of the gaussian.

    Returns:
        (N,) float32, the new scores.
    """
    if len(scores) == 0:
        return scores
    covered = ious.amax(0)[:, None]  # the largest overlap of mask i with a better one
    if kernel == "gaussian":
        decay = torch.exp(-sigma * ious**2) / torch.exp(-sigma * covered**2)
    else:
        # The divisor would be 0 for a full duplicate, and the quotient 0 / 0 for a third copy.
        decay = (1 - ious) / (1 - covered).clamp(min=torch.finfo(ious.dtype).eps)
    return scores * decay.amin(0)


def mask_nms(ious: Tensor, threshold: float) -> Tensor:
    """(N,) bool: a greedy choice from the best on. A mask is removed if its IoU with a kept one exceeds the threshold."""
    overlaps = (ious > threshold).cpu()
    keep = torch.ones(len(ious), dtype=torch.bool)
    for index in range(len(ious)):
        if keep[index]:
            keep &= ~overlaps[index]
    return keep.to(ious.device)
