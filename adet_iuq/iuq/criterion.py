"""IUQCriterion computes the two loss terms of the method (Eq. 5 and 8): it samples, enqueues, retrieves and weighs."""

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

    Its only state is that of the memory, which no `state_dict` contains.

    Args:
        memory: the memory of the inter-scene term. None: there is no such term, and nothing is sampled or stored.
        sampler: the sampler that picks the pixels which enter the memory.
        inter: the inter-scene term, which needs a memory. None: its defaults, if there is a memory.
        equi: the equivariance term. None: there is no such term.
        own_batch: whether the pixels of a batch (of all ranks) enter the memory before its queries are compared with it,
            or after, so that queries only meet pixels of earlier iterations.
        reduce_normalizer: whether sums are divided by the mean of the ranks' counts instead of by this rank's count. The
            ranks' losses then average to that of one process with all images. The segmenter's own mask loss is untouched.
    """

    def __init__(
        self,
        *,
        memory: PixelMemory | None = None,
        sampler: PixelSampler = InstanceSampler(),
        inter: InterSceneLoss | None = None,
        equi: EquivarianceLoss | None = None,
        own_batch: bool = True,
        reduce_normalizer: bool = False,
    ) -> None:
        super().__init__()
        if inter is not None and memory is None:
            raise ValueError("The inter-scene loss needs a memory to look into.")
        if memory is not None and memory.capacity == 0 and not own_batch:
            raise ValueError("without capacity the memory is the batch, and OWN_BATCH False leaves that out.")
        self.memory = memory
        self.sampler = sampler
        self.inter = inter or InterSceneLoss()
        self.equi = equi
        self.own_batch = own_batch
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
        """Computes the losses of one training step. With the inter-scene term every rank must call it (collective).

        Args:
            segmenter: the segmenter, of which the retrieval functions are called, without AMP.
            scene: all views. The `num_originals` untransformed ones come first; view num_originals + b is g_b of image b.
            transforms: the transforms g_b; None if there are no transformed views.
            num_originals: the number of untransformed views.
            iteration: the current iteration of the training, for the ramp.

        Returns:
            The weighted losses `loss_inter` and `loss_equi`, as far as they are enabled; and statistics without
            gradient, which are float scalars described in `_inter_loss` and `EquivarianceLoss`.

        Raises:
            ValueError: the numbers of transforms and of views do not fit each other.
        """
        if transforms is not None and not len(transforms) == num_originals == len(scene) - num_originals:
            raise ValueError(
                f"{len(transforms)} transforms for {len(scene)} views, {num_originals} of them originals: each "
                "original needs one transform and one transformed view."
            )
        losses: dict[str, Tensor] = {}
        stats: dict[str, Tensor] = {}
        if self.memory is not None:
            pixels = self.sampler(scene.views(slice(0, num_originals)))
            if self.own_batch:
                self.memory.enqueue(pixels)
            losses["loss_inter"], stats = self._inter_loss(self.memory, segmenter, scene, num_originals, iteration)
            if not self.own_batch:
                self.memory.enqueue(pixels)
        if self.equi is not None and self.equi.has_term and transforms is not None:
            loss, equi_stats = self.equi(segmenter, scene, transforms, reduce=self.reduce_normalizer)
            losses["loss_equi"] = self.equi.weight * loss
            stats |= equi_stats
        return losses, stats

    def _inter_loss(
        self, memory: PixelMemory, segmenter: Retriever, scene: Scene, num_originals: int, iteration: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 5 against the memory. The memory fills from the first iteration on, so the ramp starts with a filled one.

        Returns:
            The weighted loss, and `memory_fill` (0 to 1), `num_valid_pairs`, `fire_rate` (the share of foreign pixels
            on which queries fire), `own_fire_rate` (the same share on memory pixels of the query's own image). Rates
            and pairs are 0 before `start_iter`. Where `sample` draws pixels, they describe the drawn pixels.
        """
        zero = connected_zero(scene)
        stats = {"memory_fill": torch.full_like(zero, memory.fill)}
        weight = self.inter.ramp(iteration)
        if weight == 0.0:
            return zero, stats | _statistics(InterLoss(*zero.detach().expand(5)))
        result = self._match(memory, segmenter, scene, num_originals)
        return weight * result.value + zero, stats | _statistics(result)

    def _match(self, memory: PixelMemory, segmenter: Retriever, scene: Scene, num_originals: int) -> InterLoss:
        """Queries against the memory or a sample of it. The whole memory counts in the normalisation in either case."""
        queries = cap_queries(scene, self.inter.max_queries, num_originals)
        query_ids = scene.image_ids[queries.image_index]
        foreign = memory.image_counts().foreign(query_ids)
        pixels, pixel_weights = memory.sample(self.inter.sample)
        if self.inter.normalizer == "image":
            # An image has the same weight however often it was stored.
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
