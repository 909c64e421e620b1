"""IUQCriterion: sample, enqueue, retrieve, weigh. The two loss terms that the method adds (Eq. 5 and 8)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .equivariance import EquivarianceLoss
from .inter_scene import InterLoss, InterSceneLoss
from .memory import PixelMemory
from .sampling import InstanceSampler, PixelSampler, cap_queries
from .sharding import sharded_inter_loss
from .structures import Retriever, Scene, connected_zero
from .transforms import CropFlip


class IUQCriterion(nn.Module):
    """Instance-unique querying on top of the base losses.

    Its only state is the memory's, which is in no `state_dict`.

    Args:
        memory: of the inter-scene term; None: no such term, nothing is sampled or stored.
        sampler: picks the pixels that enter the memory.
        inter: the inter-scene term, which needs a memory; None: the defaults, if there is a memory.
        equi: the equivariance term; None: no such term.
        reduce_normalizer: divide sums by the mean of the ranks' counts instead of this rank's own, so that the ranks'
            losses average to that of one process with all their images. It does not reach the segmenter's own mask loss.
    """

    def __init__(
        self,
        *,
        memory: PixelMemory | None = None,
        sampler: PixelSampler = InstanceSampler(),
        inter: InterSceneLoss | None = None,
        equi: EquivarianceLoss | None = None,
        reduce_normalizer: bool = False,
    ) -> None:
        super().__init__()
        if inter is not None and memory is None:
            raise ValueError("The inter-scene loss needs a memory to look into.")
        self.memory = memory
        self.sampler = sampler
        self.inter = inter or InterSceneLoss()
        self.equi = equi
        self.reduce_normalizer = reduce_normalizer

    def forward(
        self,
        segmenter: Retriever,
        scene: Scene,
        transforms: Sequence[CropFlip] | None = None,
        *,
        num_originals: int,
        iteration: int,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One training step; with the inter-scene term it is a collective call, due on every rank.

        Args:
            segmenter: its retrieval functions; without AMP inside.
            scene: all views, `num_originals` untransformed ones first; view num_originals + b is g_b of image b.
            transforms: the g_b; None if there are no transformed views.
            num_originals: number of untransformed views.
            iteration: of the training, for the ramp.

        Returns:
            Losses, weighted: `loss_inter` and `loss_equi`, those that are enabled. Statistics, without gradient, as
            float scalars: see `_inter_loss` and `EquivarianceLoss`.
        """
        if transforms is not None and not len(transforms) == num_originals == len(scene) - num_originals:
            raise ValueError(
                f"{len(transforms)} transforms for {len(scene)} views, {num_originals} of them originals: each "
                "original needs one transform and one transformed view."
            )
        losses: dict[str, Tensor] = {}
        stats: dict[str, Tensor] = {}
        if self.memory is not None:
            self.memory.enqueue(self.sampler(scene.views(slice(0, num_originals))))
            losses["loss_inter"], stats = self._inter_loss(self.memory, segmenter, scene, num_originals, iteration)
        if self.equi is not None and self.equi.has_term and transforms is not None:
            loss, equi_stats = self.equi(segmenter, scene, transforms, reduce=self.reduce_normalizer)
            losses["loss_equi"] = self.equi.weight * loss
            stats |= equi_stats
        return losses, stats

    def _inter_loss(
        self, memory: PixelMemory, segmenter: Retriever, scene: Scene, num_originals: int, iteration: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 5 against the memory. It fills from the first iteration on, so it is warm when the ramp starts.

        Returns:
            The weighted loss, and `memory_fill` (0 to 1), `num_valid_pairs`, `fire_rate` (share of foreign pixels on
            which queries fire), `own_fire_rate` (the same on memory pixels of the query's own image). The rates and
            pairs are 0 before `start_iter`, and those of the drawn pixels where `sample` draws some.
        """
        zero = connected_zero(scene)
        stats = {"memory_fill": torch.full_like(zero, memory.fill)}
        weight = self.inter.ramp(iteration)
        if weight == 0.0:
            return zero, stats | _statistics(InterLoss(*zero.detach().expand(5)))
        result = self._match(memory, segmenter, scene, num_originals)
        return weight * result.value + zero, stats | _statistics(result)

    def _match(self, memory: PixelMemory, segmenter: Retriever, scene: Scene, num_originals: int) -> InterLoss:
        """Queries against the memory or a sample of it. Normalised over the whole memory in any case."""
        queries = cap_queries(scene, self.inter.max_queries, num_originals)
        query_ids = scene.image_ids[queries.image_index]
        foreign = memory.image_counts().foreign(query_ids)
        pixels, pixel_weights = memory.sample(self.inter.sample)
        if self.inter.normalizer == "image":
            # An image counts once however often it is stored.
            shares = 1.0 / memory.visits().of(pixels.image_ids).clamp(min=1)
            pixel_weights = shares if pixel_weights is None else shares * pixel_weights
        match = partial(sharded_inter_loss, self.inter) if memory.sharded else self.inter
        return match(
            queries,
            query_ids,
            pixels,
            segmenter.retrieve,
            query_weights=self.inter.weigh_queries(*foreign, reduce=self.reduce_normalizer),
            pixel_weights=pixel_weights,
            bytes_per_pair=segmenter.bytes_per_pair,
        )


def _statistics(result: InterLoss) -> dict[str, Tensor]:
    """Float scalars for the log."""
    return {
        "num_valid_pairs": result.num_pairs.float(),
        "fire_rate": result.num_fired / result.num_pairs.clamp(min=1),
        "own_fire_rate": result.num_own_fired / result.num_own_pairs.clamp(min=1),
    }
