"""From the grids' scores and queries to instance masks (parity spec of SOLOv2, section 6, steps 2 to 8).

Shapes: N cells of all levels, C classes, D channels, M = h w cells of the dense map, n results.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adet_iuq.errors import UserError
from adet_iuq.modeling.layers.suppression import mask_nms, matrix_nms, same_class_ious

CHUNK_BYTES = 32 * 1024**2  # of the mask probabilities that exist at one time


@dataclass(frozen=True)
class GridDetection:
    """Thresholds and caps of the inference.

    Attributes:
        score_threshold: a (cell, class) scores above it to become a candidate.
        mask_threshold: of mask probabilities; also of the IoU of the greedy NMS, as published.
        update_threshold: a result scores at least that after the matrix NMS.
        nms_pre: candidates kept before the NMS.
        max_per_image: results.
        nms_type: "matrix" or "mask".
        nms_kernel: "gaussian" or "linear".
        nms_sigma: of the gaussian.

    Raises:
        UserError: an unknown type or kernel.
    """

    score_threshold: float
    mask_threshold: float
    update_threshold: float
    nms_pre: int
    max_per_image: int
    nms_type: str
    nms_kernel: str
    nms_sigma: float

    def __post_init__(self) -> None:
        for key, value, known in (
            ("NMS_TYPE", self.nms_type, ("matrix", "mask")),
            ("NMS_KERNEL", self.nms_kernel, ("gaussian", "linear")),
        ):
            if value not in known:
                raise UserError(f'{key} is "{value}"; it can be {" or ".join(known)}.')


@dataclass
class GridResults:
    """n results of one image, best first."""

    scores: Tensor  # (n,)
    classes: Tensor  # (n,) long
    cells: Tensor  # (n,) long


@dataclass
class _Masks:
    """Binary masks of U distinct cells, with what the rescoring needs."""

    binary: Tensor  # (U, M) bool
    areas: Tensor  # (U,) float, cells in the mask
    confidence: Tensor  # (U,) mean probability inside the mask


def select_results(
    scores: Tensor, kernels: Tensor, features: Tensor, cell_strides: Tensor, settings: GridDetection
) -> GridResults:
    """Candidates above the threshold, rescored by their masks, without duplicates.

    Args:
        scores: (N, C) probabilities after point NMS.
        kernels: (N, D).
        features: (D, h, w).
        cell_strides: (N,) stride of each cell's level; a mask needs more cells than that.
        settings: thresholds.
    """
    cells, classes = torch.nonzero(scores > settings.score_threshold, as_tuple=True)
    # Several classes of one cell share a query, thus a mask.
    distinct, which = torch.unique(cells, return_inverse=True)
    masks = _decode(kernels[distinct], features.flatten(1), settings.mask_threshold)
    rescored = scores[cells, classes] * masks.confidence[which]
    large = torch.nonzero(masks.areas[which] > cell_strides[cells])[:, 0]
    order = large[rescored[large].argsort(descending=True, stable=True)][: settings.nms_pre]
    rescored, which = rescored[order], which[order]
    classes, cells = classes[order], cells[order]
    ious = same_class_ious(masks.binary, which, masks.areas[which], classes)
    if settings.nms_type == "matrix":
        rescored = matrix_nms(rescored, ious, settings.nms_kernel, settings.nms_sigma)
        keep = rescored >= settings.update_threshold
    else:
        keep = mask_nms(ious, settings.mask_threshold)
    kept = torch.nonzero(keep)[:, 0]
    best = kept[rescored[kept].argsort(descending=True, stable=True)][: settings.max_per_image]
    return GridResults(rescored[best], classes[best], cells[best])


def mask_probabilities(kernels: Tensor, features: Tensor) -> Tensor:
    """(n, M) float32 probabilities of queries (n, D) on a flat map (D, M)."""
    return (kernels @ features).sigmoid_()


def _decode(kernels: Tensor, features: Tensor, threshold: float) -> _Masks:
    """Masks of queries (U, D) on a flat map (D, M); only their binary form is kept."""
    count, size = len(kernels), features.shape[1]
    binary = torch.empty(count, size, dtype=torch.bool, device=features.device)
    sums = []
    for part, out in zip(*(x.split(max(1, CHUNK_BYTES // (4 * size))) for x in (kernels, binary)), strict=True):
        probabilities = mask_probabilities(part, features)
        torch.gt(probabilities, threshold, out=out)
        sums.append(torch.stack([out.sum(1).float(), probabilities.mul_(out).sum(1)]))
    areas, totals = torch.cat(sums, dim=1)
    return _Masks(binary, areas, totals / areas.clamp(min=1))
