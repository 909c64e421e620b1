"""The equivariance loss (Eq. 6 to 8): a segmenter should see in a cropped and flipped image what it sees in the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .distributed import sum_over_ranks, world_size
from .structures import Retriever, Scene, connected_zero
from .transforms import CropFlip, warp_features

EQUI_TARGETS = ("query", "feature", "augmentation")


@dataclass(frozen=True, kw_only=True)
class EquivarianceLoss:
    """Eq. 8 ("query"), Eq. 6 ("feature"), or Eq. 7 ("augmentation": the views join the base losses; there is no term).

    Raises:
        ValueError: the target is unknown.
    """

    target: str = "query"
    weight: float = 1.0  # lambda, the factor of the whole term (the paper's, Table 4e: 3)

    def __post_init__(self) -> None:
        if self.target not in EQUI_TARGETS:
            raise ValueError(f"Unknown equivariance target '{self.target}'; choose one of {', '.join(EQUI_TARGETS)}.")

    @property
    def has_term(self) -> bool:
        """Whether there is a loss to compute at all."""
        return self.target != "augmentation"

    def __call__(
        self, segmenter: Retriever, scene: Scene, transforms: Sequence[CropFlip], *, reduce: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The term before the multiplication by `weight`, computed outside autocast in at least float32.

        Args:
            segmenter: the segmenter, of which the retrieval on maps and the mask loss are called.
            scene: the scene of B images followed by their B views; view b is g_b of image b.
            transforms: the B transforms g_b.
            reduce: whether means over cells count the cells of all ranks. The segmenter's own mask loss decides for itself.

        Returns:
            The loss and, for "query", `equi_fire_rate`: the share of queries that fire on any valid cell of g(I).
        """
        count = len(transforms)
        views = scene.views(slice(count, 2 * count))
        with torch.autocast(scene.features.device.type, enabled=False):
            warped, valid = warp_features(
                scene.features[:count],
                transforms,
                scene.image_sizes[:count],
                stride=scene.stride,
                offset=scene.offset,
            )
            if self.target == "feature":
                return _feature_loss(views.features, warped, valid, reduce), {}
            loss, fire_rate = _query_loss(segmenter, views, warped, valid)
            return loss + connected_zero(scene), {"equi_fire_rate": fire_rate}


def _query_loss(segmenter: Retriever, views: Scene, warped: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 8: L_mask of <q_n^g, g(I)> against g(M_sigma(n)). It trains the queries of g(I) and the features of I.

    Args:
        segmenter: the segmenter, as above.
        views: the scene of the views, which holds the queries of g(I).
        warped: g(f(I)), (B, D, Hf, Wf).
        valid: (B, Hf, Wf) bool, the cells that count.
    """
    # L_mask is called without any query too, because it may be a collective call.
    logits = segmenter.retrieve_map(views.queries.to(dtype=warped.dtype), warped)
    fired = ((logits.detach() > 0) & valid[views.queries.image_index]).flatten(1).any(dim=1)
    return segmenter.mask_loss(logits, views, valid), fired.float().sum() / max(len(fired), 1)


def _feature_loss(view_features: Tensor, warped: Tensor, valid: Tensor, reduce: bool) -> Tensor:
    """Eq. 6: mean of (f(g(I)) - g(f(I)))^2 over valid cells and channels; a connected zero if no cell is valid.

    The gradient reaches both sides.

    Args:
        view_features: f(g(I)), (B, D, Hf, Wf).
        warped: g(f(I)), (B, D, Hf, Wf).
        valid: (B, Hf, Wf) bool, the cells that count.
        reduce: whether the mean counts the valid cells of all ranks; it is a collective call then.
    """
    squared = (view_features.to(warped.dtype) - warped).square().mean(dim=1)
    # torch.where and not a product, because the values outside `valid` may be infinite or NaN.
    total = torch.where(valid, squared, 0.0).sum()
    if not reduce:
        return total / valid.sum().clamp(min=1)
    return total * world_size() / sum_over_ranks(valid.sum()).clamp(min=1)
