"""Suppression of duplicates among masks: point, matrix and greedy mask NMS (docs/parity/solov2.md, "Inference").

Shapes: N masks of one image sorted by score, best first; M cells of the dense map.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_CELLS = 8192  # cells of all masks of one class that are multiplied at a time


def point_nms(scores: Tensor) -> Tensor:
    """Keeps a score that is at least those of the cells above, to the left, and both; others become 0.

    Args:
        scores: (B, C, S, S) not negative.
    """
    best = F.max_pool2d(scores, 2, stride=1, padding=1)[:, :, :-1, :-1]
    return scores * (best == scores)


def same_class_ious(masks: Tensor, which: Tensor, areas: Tensor, classes: Tensor) -> Tensor:
    """IoU of every mask with those of its class that score less.

    Args:
        masks: (U, M) bool, distinct masks.
        which: (N,) long, rows of `masks`, sorted by score; a mask may stand for several classes.
        areas: (N,) float, their number of cells, at least 1.
        classes: (N,) long.

    Returns:
        (N, N) float32, strictly upper triangular; 0 between classes.
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
    """Scores decayed by what each mask shares with better ones (SOLOv2, arXiv 2003.10152, equation 4).

    Args:
        scores: (N,) sorted.
        ious: (N, N) from `same_class_ious`.
        kernel: "gaussian" or "linear".
        sigma: of the gaussian.

    Returns:
        (N,) float32.
    """
    if len(scores) == 0:
        return scores
    covered = ious.amax(0)[:, None]  # of i, by anything better
    if kernel == "gaussian":
        decay = torch.exp(-sigma * ious**2) / torch.exp(-sigma * covered**2)
    else:
        # A full duplicate has nothing left: the divisor would be 0, and 0 / 0 for a third copy.
        decay = (1 - ious) / (1 - covered).clamp(min=torch.finfo(ious.dtype).eps)
    return scores * decay.amin(0)


def mask_nms(ious: Tensor, threshold: float) -> Tensor:
    """(N,) bool: greedy choice from the best on; a mask leaves when its IoU with a kept one is above the threshold."""
    overlaps = (ious > threshold).cpu()
    keep = torch.ones(len(ious), dtype=torch.bool)
    for index in range(len(ious)):
        if keep[index]:
            keep &= ~overlaps[index]
    return keep.to(ious.device)
