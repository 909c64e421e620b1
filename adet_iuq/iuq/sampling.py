"""Selects the pixels of a scene that enter the memory (Table 4b), and the queries of a scene that meet the memory.

Pixels always lie inside ground-truth instances, never in the background.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .cells import masks_at_cells
from .randomness import image_generator
from .structures import Pixels, Queries, Scene

PixelSampler = Callable[[Scene], Pixels]


@dataclass(frozen=True)
class DenseSampler:
    """Takes every cell inside an instance once. Where instances overlap, the smallest one owns the cell."""

    def __call__(self, scene: Scene) -> Pixels:
        """The pixels of all images, detached."""
        return _sample_images(scene, self._draw)

    def _draw(self, grid: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        cells = grid.any(dim=0).nonzero().squeeze(1)
        return cells, _owner(grid, cells)


@dataclass(frozen=True)
class SparseSampler:
    """Takes `pixels_per_image` random cells of an image's instances (all, if there are fewer), each of them once."""

    pixels_per_image: int = 500

    def __call__(self, scene: Scene) -> Pixels:
        """The pixels of all images, detached."""
        return _sample_images(scene, self._draw)

    def _draw(self, grid: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        _, cells = _top_cells(grid.any(dim=0)[None], scores, self.pixels_per_image)
        return cells, _owner(grid, cells)


@dataclass(frozen=True)
class InstanceSampler:
    """Takes `pixels_per_instance` random cells of each instance (all, if it has fewer), section 3.3 of the paper.

    A cell in two overlapping instances may be drawn for both, as each instance is sampled as if it were alone.
    """

    pixels_per_instance: int = 50

    def __call__(self, scene: Scene) -> Pixels:
        """The pixels of all images, detached."""
        return _sample_images(scene, self._draw)

    def _draw(self, grid: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        instances, cells = _top_cells(grid, scores, self.pixels_per_instance)
        return cells, instances


SAMPLERS: dict[str, type] = {"dense": DenseSampler, "sparse": SparseSampler, "instance": InstanceSampler}


def build_sampler(name: str, *, pixels_per_instance: int = 50, pixels_per_image: int = 500) -> PixelSampler:
    """The sampler of that name, with the number that it uses.

    Args:
        name: "dense", "sparse" or "instance".
        pixels_per_instance: the number that "instance" uses.
        pixels_per_image: the number that "sparse" uses.

    Raises:
        ValueError: the name is unknown, or its number is below 1.
    """
    if name not in SAMPLERS:
        raise ValueError(f"Unknown pixel sampler '{name}'; choose one of {', '.join(SAMPLERS)}.")
    if name == "dense":
        return DenseSampler()
    count = pixels_per_instance if name == "instance" else pixels_per_image
    if count < 1:
        raise ValueError(f"The sampler '{name}' must draw at least 1 pixel, not {count}.")
    return InstanceSampler(count) if name == "instance" else SparseSampler(count)


def cap_queries(scene: Scene, max_queries: int, num_originals: int) -> Queries:
    """At most `max_queries` of the scene's queries (-1: all), spread evenly over the instances of all views.

    Every instance gives one random query, then every instance a second one, and so on. In the last round the instances
    are chosen at random. The draws depend on each image's seed and on whether it is the original or the view.
    """
    queries = scene.queries
    if max_queries < 0 or len(queries) <= max_queries:
        return queries
    # Each query needs two independent draws: its place within the instance, and the instance's place in that round.
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


def instance_cells(scene: Scene, image: int) -> Tensor:
    """The cells that each instance of an image may be sampled from: (K_b, Hf * Wf) bool.

    These are the cells that `Scene.mask_cells` gives to its mask. An instance too small for a cell has no pixel to store.
    """
    masks, map_size = scene.masks[image], (scene.features.shape[2], scene.features.shape[3])
    if scene.mask_cells is not None:
        return scene.mask_cells(masks, map_size).flatten(1)
    return masks_at_cells(masks, scene.stride, scene.offset, map_size).flatten(1)


def _sample_images(scene: Scene, draw: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Pixels:
    """Applies `draw` to each image: cells of instances (K, Hf * Wf) bool and a score per cell become (cells, owners).

    The scores come from the image's own seed, so that they depend neither on the batch nor on the process.
    """
    parts = []
    device = scene.features.device
    for image in range(len(scene)):
        grid = instance_cells(scene, image)
        generator = image_generator(scene.sample_seeds, image, "pixel_sampler", device)
        scores = torch.rand(grid.shape[1], generator=generator, device=device)
        parts.append(_pixels(scene, image, *draw(grid, scores)))
    return Pixels.cat(parts)


def _top_cells(grid: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` cells of each row of grid (K, cells), a uniform subset: row numbers and cells, (n,) long each."""
    best = torch.where(grid, scores, -1.0).topk(min(count, grid.shape[1]), dim=1)
    drawn = best.values >= 0
    return drawn.nonzero()[:, 0], best.indices[drawn]


def _owner(grid: Tensor, cells: Tensor) -> Tensor:
    """The smallest instance on each of the cells, (n,) long. Small instances tend to lie in front."""
    if grid.shape[0] == 0:
        return cells
    area = grid.sum(dim=1, keepdim=True)
    return torch.where(grid[:, cells], area, grid.shape[1] + 1).argmin(dim=0)


def _pixels(scene: Scene, image: int, cells: Tensor, instances: Tensor) -> Pixels:
    """The pixels (n, ...) at flat cells (n,) of one image, each of them with the context of its instance (n,)."""
    order = None
    if scene.sample_indices is not None:
        order = torch.full_like(cells, scene.sample_indices[image])
    return Pixels(
        features=scene.features[image].detach().flatten(1)[:, cells].t(),
        locations=scene.cell_locations(cells),
        image_ids=scene.image_ids[image].expand(len(cells)),
        context={name: values[image].detach()[instances] for name, values in scene.instance_context.items()},
        order=order,
    )
