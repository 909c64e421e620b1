"""From the grids' scores and queries to instance masks (docs/parity/solov2.md, "Inference").

Shapes: N cells of all levels, C classes, D channels, M = h w cells of the dense map, n results.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adet_iuq.errors import UserError
from adet_iuq.modeling.grid.suppression import mask_nms, matrix_nms, same_class_ious

CHUNK_BYTES = 32 * 1024**2  # bytes of mask probabilities that exist at one time


@dataclass(frozen=True)
class GridDetection:
    """Thresholds and caps of the inference.

    Attributes:
        score_threshold: the score that a (cell, class) pair must exceed to become a candidate.
        mask_threshold: the threshold of mask probabilities; as published, also of the IoU in the greedy NMS.
        update_threshold: the score that a result must reach after the matrix NMS.
        nms_pre: the number of candidates that are kept before the NMS.
        max_per_image: the number of results that are kept.
        nms_type: "matrix" or "mask".
        nms_kernel: "gaussian" or "linear".
        nms_sigma: the sigma of the gaussian.

    Raises:
        UserError: the type or the kernel is unknown, or `nms_pre` is below 1.
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
        if self.nms_pre < 1:
            raise UserError(f"NMS_PRE is {self.nms_pre}; at least 1 candidate has to be kept.")

    def times(self, images: int) -> "GridDetection":
        """The same settings for a picture that holds several images: as many times the candidates and results."""
        return replace(self, nms_pre=images * self.nms_pre, max_per_image=images * self.max_per_image)


@dataclass
class GridResults:
    """n results of one image, best first."""

    scores: Tensor  # (n,)
    classes: Tensor  # (n,) long
    cells: Tensor  # (n,) long


@dataclass
class _Candidates:
    """n (cell, class) pairs, best first. Classes of one cell share its query and mask: there are U distinct masks."""

    scores: Tensor  # (n,), rescored by the masks
    classes: Tensor  # (n,) long
    cells: Tensor  # (n,) long
    which: Tensor  # (n,) long, rows of masks
    masks: Tensor  # (U, M) bool
    areas: Tensor  # (U,) float, cells in the mask


def select_results(
    scores: Tensor, kernels: Tensor, features: Tensor, cell_strides: Tensor, settings: GridDetection
) -> GridResults:
    """The candidates above the threshold, rescored by their masks, without duplicates.

    Args:
        scores: (N, C) probabilities after point NMS.
        kernels: (N, D), the queries.
        features: (D, h, w), the dense map.
        cell_strides: (N,), the stride of each cell's level; a mask needs more cells than that.
        settings: the thresholds.
    """
    found = _best_candidates(scores, kernels, features.flatten(1), cell_strides, settings)
    rescored = found.scores
    ious = same_class_ious(found.masks, found.which, found.areas[found.which], found.classes)
    if settings.nms_type == "matrix":
        rescored = matrix_nms(rescored, ious, settings.nms_kernel, settings.nms_sigma)
        keep = rescored >= settings.update_threshold
    else:
        keep = mask_nms(ious, settings.mask_threshold)
    kept = torch.nonzero(keep)[:, 0]
    best = kept[rescored[kept].argsort(descending=True, stable=True)][: settings.max_per_image]
    return GridResults(rescored[best], found.classes[best], found.cells[best])


def mask_probabilities(kernels: Tensor, features: Tensor) -> Tensor:
    """(n, M) float32 probabilities of queries (n, D) on a flat map (D, M)."""
    return (kernels @ features).sigmoid_()


def _best_candidates(
    scores: Tensor, kernels: Tensor, features: Tensor, cell_strides: Tensor, settings: GridDetection
) -> _Candidates:
    """The `nms_pre` best candidates after the rescoring, on a flat map (D, M).

    Cells are decoded a few at a time, best first, and only the masks of the best candidates so far are kept. A mask's
    confidence is at most 1. So decoding ends when the cells' scores fall below the score of the last candidate to keep.
    """
    best = scores.amax(1)
    order = torch.nonzero(best > settings.score_threshold)[:, 0]
    order = order[best[order].argsort(descending=True)]
    none = order[:0]
    masks = torch.empty(0, features.shape[1], dtype=torch.bool, device=features.device)
    found = _Candidates(best[:0], none, none, none, masks, best[:0])
    for cells in order.split(max(1, CHUNK_BYTES // (4 * features.shape[1]))):
        floor = found.scores[-1] if len(found.scores) == settings.nms_pre else torch.zeros_like(best[0])
        if (best[cells] < floor).all():
            break
        masks, areas, confidence = _decode(kernels[cells], features, settings.mask_threshold)
        rescored = scores[cells] * confidence[:, None]
        large = areas > cell_strides[cells]
        row, label = torch.nonzero(
            (scores[cells] > settings.score_threshold) & (rescored >= floor) & large[:, None], as_tuple=True
        )
        more = _Candidates(rescored[row, label], label, cells[row], row, masks, areas)
        found = _best_of_both(found, more, settings.nms_pre)
    return found


def _best_of_both(found: _Candidates, more: _Candidates, most: int) -> _Candidates:
    """At most `most` of both together, with their masks; equal scores are ordered by cell, then by class."""
    scores, classes, cells = (
        torch.cat(pair)
        for pair in ((found.scores, more.scores), (found.classes, more.classes), (found.cells, more.cells))
    )
    which = torch.cat([found.which, len(found.masks) + more.which])
    order = classes.argsort(stable=True)
    order = order[cells[order].argsort(stable=True)]
    order = order[scores[order].argsort(descending=True, stable=True)][:most]
    kept, which = which[order].unique(return_inverse=True)
    masks, areas = torch.cat([found.masks, more.masks])[kept], torch.cat([found.areas, more.areas])[kept]
    return _Candidates(scores[order], classes[order], cells[order], which, masks, areas)


def _decode(kernels: Tensor, features: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """The masks (U, M) bool of queries (U, D) on a flat map (D, M), their areas, and the mean probability inside each."""
    probabilities = mask_probabilities(kernels, features)
    masks = probabilities > threshold
    areas = masks.sum(1).float()
    return masks, areas, probabilities.mul_(masks).sum(1) / areas.clamp(min=1)
