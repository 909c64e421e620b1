"""IUQCriterion: sample, enqueue, retrieve, weigh. The two loss terms that the method adds (Eq. 5 and 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .distributed import sum_over_ranks, world_size
from .losses import INTER_LOSSES, NORMALIZERS, build_inter_loss, query_weights, ramp_weight
from .memory import PixelMemory
from .randomness import image_generator
from .retrieval import InterLoss, chunked_inter_loss
from .sampling import PixelSampler
from .sharding import sharded_inter_loss
from .structures import Queries, Scene, Segmenter
from .transforms import CropFlip, warp_features

EQUI_TARGETS = ("query", "feature", "augmentation")


@dataclass(frozen=True)
class InterSettings:
    """The inter-scene term; names and meanings as MODEL.IUQ.INTER."""

    loss: str = "focal"
    gamma: float = 2.5
    neg_weight: float = 0.9
    normalizer: str = "pixel"
    weight: float = 1.0
    start_iter: int = 0
    ramp_iters: int = 0
    max_queries: int = -1
    sample: int = -1
    chunk_bytes: int = 0

    def __post_init__(self) -> None:
        _check_choice("INTER.LOSS", self.loss, tuple(INTER_LOSSES))
        _check_choice("INTER.NORMALIZER", self.normalizer, tuple(NORMALIZERS))


@dataclass(frozen=True)
class EquiSettings:
    """The equivariance term; names and meanings as MODEL.IUQ.EQUI."""

    target: str = "query"
    weight: float = 3.0

    def __post_init__(self) -> None:
        _check_choice("EQUI.TARGET", self.target, EQUI_TARGETS)


class IUQCriterion(nn.Module):
    """Instance-unique querying on top of the base losses.

    Its only state is the memory's, which is in no `state_dict`.

    Args:
        memory: needed if `inter` is given.
        sampler: picks the pixels that enter the memory; needed if `inter` is given.
        inter: settings of the inter-scene term; None: no such term, nothing is sampled or stored.
        equi: settings of the equivariance term; None: no such term.
        reduce_normalizer: divide sums by the mean of the ranks' counts instead of this rank's own, so that the ranks'
            losses average to that of one process with all their images. L_mask is the segmenter's.
    """

    def __init__(
        self,
        *,
        memory: PixelMemory | None = None,
        sampler: PixelSampler | None = None,
        inter: InterSettings | None = None,
        equi: EquiSettings | None = None,
        reduce_normalizer: bool = False,
    ) -> None:
        super().__init__()
        if inter is not None and (memory is None or sampler is None):
            raise ValueError("The inter-scene loss needs a memory and a sampler.")
        self.memory = memory
        self.sampler = sampler
        self.inter = inter
        self.equi = equi
        self.reduce_normalizer = reduce_normalizer

    def forward(
        self,
        segmenter: Segmenter,
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
            float scalars: see `inter_loss` and `equi_loss`.
        """
        if transforms is not None and not len(transforms) == num_originals == len(scene) - num_originals:
            raise ValueError(
                f"{len(transforms)} transforms for {len(scene)} views, {num_originals} of them originals: each "
                "original needs one transform and one transformed view."
            )
        losses: dict[str, Tensor] = {}
        stats: dict[str, Tensor] = {}
        if self.inter is not None:
            losses["loss_inter"], inter_stats = self.inter_loss(segmenter, scene, num_originals, iteration)
            stats.update(inter_stats)
        if self.equi is not None and self.equi.target != "augmentation" and transforms is not None:
            losses["loss_equi"], equi_stats = self.equi_loss(segmenter, scene, transforms)
            stats.update(equi_stats)
        return losses, stats

    def inter_loss(
        self, segmenter: Segmenter, scene: Scene, num_originals: int, iteration: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 5: enqueue the originals' pixels, then no query may retrieve a pixel of another image.

        The memory fills from the first iteration on, so it is warm when the ramp starts. Gradient: embeddings only.

        Returns:
            The weighted loss, and `memory_fill` (0 to 1), `num_valid_pairs`, `fire_rate` (share of foreign pixels on
            which queries fire), `own_fire_rate` (the same on memory pixels of the query's own image). The rates and
            pairs are 0 before START_ITER, and those of the sampled pixels where INTER.SAMPLE draws some.
        """
        assert self.inter is not None and self.memory is not None and self.sampler is not None
        self.memory.enqueue(self.sampler(scene.views(slice(0, num_originals))))
        weight = ramp_weight(
            iteration, weight=self.inter.weight, start_iter=self.inter.start_iter, ramp_iters=self.inter.ramp_iters
        )
        connected = connected_zero(scene)
        if weight == 0.0:
            return connected, self._inter_stats(None, connected)
        queries = cap_queries(scene, self.inter.max_queries, num_originals)
        result = self._match(segmenter, queries, scene.image_ids[queries.image_index])
        return weight * result.value + connected, self._inter_stats(result, connected)

    def _match(self, segmenter: Segmenter, queries: Queries, query_ids: Tensor) -> InterLoss:
        """Queries against the memory or a sample of it. Normalised over the whole memory in any case."""
        assert self.inter is not None and self.memory is not None
        weights = query_weights(
            self.inter.normalizer, query_ids, self.memory.image_counts(), reduce=self.reduce_normalizer
        )
        pixels, scale = self.memory.sample(self.inter.sample)
        loss = build_inter_loss(self.inter.loss, gamma=self.inter.gamma, neg_weight=self.inter.neg_weight)
        bytes_per_pair = getattr(segmenter, "bytes_per_pair", 0)
        if self.memory.sharded:
            return sharded_inter_loss(
                queries,
                query_ids,
                weights,
                pixels,
                segmenter.retrieve,
                loss,
                scale=scale,
                chunk_bytes=self.inter.chunk_bytes,
                bytes_per_pair=bytes_per_pair,
            )
        return chunked_inter_loss(
            queries,
            query_ids,
            pixels,
            segmenter.retrieve,
            loss,
            normalizer=lambda _query_ids, _pixel_ids: scale * weights,
            chunk_bytes=self.inter.chunk_bytes,
            bytes_per_pair=bytes_per_pair,
        )

    def equi_loss(
        self, segmenter: Segmenter, scene: Scene, transforms: Sequence[CropFlip]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 8 (target "query") or Eq. 6 ("feature"), weighted by lambda.

        Eq. 8: L_mask of <q_n^g, g(I)> against g(M_sigma(n)); gradient into the queries of g(I) and the features of I.
        Eq. 6: mean squared difference of f(g(I)) and g(f(I)) over channels and valid cells; gradient into both.

        Returns:
            The loss, and for "query" `equi_fire_rate`, the share of queries that fire on any valid cell of g(I).
        """
        assert self.equi is not None
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
            if self.equi.target == "feature":
                loss = feature_equivariance_loss(views.features, warped, valid, reduce=self.reduce_normalizer)
                return self.equi.weight * loss, {}
            # Also without any query: L_mask may be a collective call.
            logits = segmenter.retrieve_map(views.queries.to(dtype=warped.dtype), warped)
            loss = segmenter.mask_loss(logits, views, valid)
            fired = ((logits.detach() > 0) & valid[views.queries.image_index]).flatten(1).any(dim=1)
            fire_rate = fired.float().sum() / max(len(fired), 1)
            return self.equi.weight * loss + connected_zero(scene), {"equi_fire_rate": fire_rate}

    def _inter_stats(self, result: InterLoss | None, like: Tensor) -> dict[str, Tensor]:
        """Float scalars for the log."""
        assert self.memory is not None
        zero = torch.zeros((), device=like.device)
        stats = {"memory_fill": zero + self.memory.fill}
        if result is None:
            return {**stats, "num_valid_pairs": zero, "fire_rate": zero, "own_fire_rate": zero}
        return {
            **stats,
            "num_valid_pairs": result.num_pairs.float(),
            "fire_rate": result.num_fired / result.num_pairs.clamp(min=1),
            "own_fire_rate": result.num_own_fired / result.num_own_pairs.clamp(min=1),
        }


def feature_equivariance_loss(view_features: Tensor, warped: Tensor, valid: Tensor, *, reduce: bool = False) -> Tensor:
    """Eq. 6: mean over valid cells and channels of (f(g(I)) - g(f(I)))^2; a connected zero without a valid cell.

    Args:
        view_features: f(g(I)), (B, D, Hf, Wf).
        warped: g(f(I)), (B, D, Hf, Wf).
        valid: (B, Hf, Wf) bool.
        reduce: the mean counts the valid cells of all ranks; a collective call then.
    """
    squared = (view_features.to(warped.dtype) - warped).square().mean(dim=1)
    # where, not a product: what lies outside `valid` may be anything.
    total = torch.where(valid, squared, 0.0).sum()
    if not reduce:
        return total / valid.sum().clamp(min=1)
    return total * world_size() / sum_over_ranks(valid.sum()).clamp(min=1)


def cap_queries(scene: Scene, max_queries: int, num_originals: int) -> Queries:
    """At most `max_queries` of the scene's queries (-1: all), spread evenly over the instances of all views.

    Every instance gives one random query, then every one a second, and so on; the last round is a random choice of
    instances. Draws are keyed by each image's seed and by whether it is the original or the view.
    """
    queries = scene.queries
    if max_queries < 0 or len(queries) <= max_queries:
        return queries
    # Two independent draws for each query: its place within the instance, and the instance's place in that round.
    scores = torch.zeros(len(queries), 2, dtype=torch.float64, device=queries.image_index.device)
    for image in range(len(scene)):
        generator = image_generator(scene.sample_seeds, image, f"query_cap/{image // max(num_originals, 1)}")
        mine = (queries.image_index == image).nonzero().squeeze(1)
        scores[mine] = torch.rand(len(mine), 2, generator=generator, dtype=torch.float64).to(scores)
    instance = queries.image_index * (queries.target_index.max() + 1) + queries.target_index
    shuffled = scores[:, 0].argsort()
    grouped = shuffled[instance[shuffled].argsort(stable=True)]
    _, sizes = torch.unique_consecutive(instance[grouped], return_counts=True)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    turn = torch.empty_like(scores[:, 0])
    turn[grouped] = (torch.arange(len(queries), device=scores.device) - starts).to(scores)
    return queries.select((turn + scores[:, 1]).argsort()[:max_queries].sort().values)


def connected_zero(scene: Scene) -> Tensor:
    """A float32 zero that depends on features and embeddings, so that no parameter is left without a gradient.

    Sums of empty slices: unlike 0 * x they stay zero when x is not finite.
    """
    return scene.features[:0].float().sum() + scene.queries.embeddings[:0].float().sum()


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"MODEL.IUQ.{key} is '{value}'; choose one of {', '.join(choices)}.")
