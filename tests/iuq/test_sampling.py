"""Samplers against slow twins, their distribution, tiny instances, seeds."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adet_iuq.iuq import Pixels, Queries, Scene, build_sampler
from adet_iuq.iuq.sampling import instance_cells

MakeScene = Callable[..., Scene]
STRIDE = 4


def _scene(masks: Tensor, *, offset: float = 2, image_size: tuple[int, int] | None = None, seed: int = 0) -> Scene:
    """One image with given masks (K, H, W); the feature of a cell is its flat index."""
    height, width = -(-masks.shape[1] // STRIDE), -(-masks.shape[2] // STRIDE)
    empty = torch.zeros(0, dtype=torch.long)
    return Scene(
        queries=Queries(torch.zeros(0, 1), empty, empty),
        features=torch.arange(height * width).float().view(1, 1, height, width).requires_grad_(),
        stride=STRIDE,
        offset=offset,
        masks=[masks],
        image_ids=torch.tensor([5]),
        image_sizes=[image_size or (masks.shape[1], masks.shape[2])],
        sample_seeds=[seed],
        sample_indices=[17],
        instance_context={"number": [torch.arange(len(masks))]},
    )


def _mask(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Tensor:
    """Boxes x0, y0, x1, y1 as masks (K, H, W)."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def _cells_by_loops(scene: Scene, instance: int) -> set[int]:
    """Cells whose supervised pixel lies in the mask, one by one."""
    mask = scene.masks[0][instance]
    rows, columns = scene.features.shape[2:]
    cells = set()
    for i in range(rows):
        for j in range(columns):
            y, x = int(STRIDE * i + scene.offset), int(STRIDE * j + scene.offset)
            if y < mask.shape[0] and x < mask.shape[1] and mask[y, x]:
                cells.add(i * columns + j)
    return cells


def _drawn(pixels: Pixels) -> list[int]:
    return pixels.features[:, 0].long().tolist()


TWO = _mask((40, 60), (0, 0, 30, 20), (20, 10, 50, 40))  # overlapping, 40 and 60 cells or so


@pytest.mark.parametrize("offset", [0, 2, 3])
def test_dense_takes_every_foreground_cell_once(offset: int) -> None:
    scene = _scene(TWO, offset=offset)
    drawn = _drawn(build_sampler("dense")(scene))
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == _cells_by_loops(scene, 0) | _cells_by_loops(scene, 1)


def test_columns_belong_together() -> None:
    scene = _scene(TWO)
    scene.nominal_offset = 1
    pixels = build_sampler("dense")(scene)
    cells, width = pixels.features[:, 0], scene.features.shape[3]
    assert torch.equal(pixels.locations, torch.stack([cells % width, cells // width], dim=1) * STRIDE + 1)
    assert set(pixels.image_ids.tolist()) == {5}
    assert pixels.order is not None and set(pixels.order.tolist()) == {17}
    assert not pixels.features.requires_grad


@pytest.mark.parametrize("name", ["dense", "sparse", "instance"])
def test_context_is_that_of_an_instance_on_the_cell(name: str) -> None:
    scene = _scene(TWO)
    pixels = build_sampler(name)(scene)
    owners = pixels.context["number"].tolist()
    assert set(owners) == {0, 1}
    for cell, owner in zip(_drawn(pixels), owners, strict=True):
        assert cell in _cells_by_loops(scene, owner)


def test_dense_gives_shared_cells_to_the_smaller_instance() -> None:
    scene = _scene(TWO)  # the first is the smaller one
    shared = _cells_by_loops(scene, 0) & _cells_by_loops(scene, 1)
    pixels = build_sampler("dense")(scene)
    owners = [
        owner for cell, owner in zip(_drawn(pixels), pixels.context["number"].tolist(), strict=True) if cell in shared
    ]
    assert shared and set(owners) == {0}


def test_instance_balances() -> None:
    scene = _scene(_mask((40, 60), (0, 0, 60, 20), (4, 24, 12, 32), (20, 10, 50, 40)))
    pixels = build_sampler("instance", pixels_per_instance=10)(scene)
    owners = pixels.context["number"].tolist()
    assert [owners.count(k) for k in range(3)] == [10, 4, 10]
    for k in range(3):
        mine = [cell for cell, owner in zip(_drawn(pixels), owners, strict=True) if owner == k]
        assert len(mine) == len(set(mine)) and set(mine) <= _cells_by_loops(scene, k)


def test_sparse_draws_so_many_an_image() -> None:
    scene = _scene(TWO)
    drawn = _drawn(build_sampler("sparse", pixels_per_image=25)(scene))
    assert len(drawn) == len(set(drawn)) == 25
    everything = _drawn(build_sampler("sparse", pixels_per_image=10_000)(scene))
    assert sorted(everything) == sorted(_drawn(build_sampler("dense")(scene)))


@pytest.mark.parametrize(("name", "count"), [("sparse", 12), ("instance", 12)])
def test_draws_are_uniform(name: str, count: int) -> None:
    """Frequencies over many seeds against the twin's: count / cells for each cell of the pool."""
    runs, hits = 1500, torch.zeros(150)
    sampler = build_sampler(name, pixels_per_instance=count, pixels_per_image=count)
    masks = TWO[:1]
    pool = sorted(_cells_by_loops(_scene(masks), 0))
    for seed in range(runs):
        hits[_drawn(sampler(_scene(masks, seed=seed)))] += 1
    expected = count / len(pool)
    frequency = hits[pool] / runs
    assert (frequency - expected).abs().max() < 5 * (expected * (1 - expected) / runs) ** 0.5
    assert hits.sum() == runs * count == hits[pool].sum()


@pytest.mark.parametrize("name", ["dense", "sparse", "instance"])
def test_an_instance_without_a_cell_of_its_own_is_left_out(name: str) -> None:
    """Pixel (x 11, y 7) supervises no cell (they sit at 2, 6, 10, 14, ...): its neighbours belong to others."""
    scene = _scene(_mask((40, 60), (11, 7, 12, 8), (0, 20, 60, 40)))
    pixels = build_sampler(name)(scene)
    assert set(pixels.context["number"].tolist()) == {1} and len(pixels) > 0


@pytest.mark.parametrize("name", ["dense", "sparse", "instance"])
def test_the_segmenter_says_which_cells_are_inside(name: str) -> None:
    scene = _scene(TWO)
    scene.mask_cells = _last_column
    drawn = _drawn(build_sampler(name)(scene.views(slice(0, 1))))
    assert set(drawn) == {15 * row + 14 for row in range(10)}


def _last_column(masks: Tensor, size: tuple[int, int]) -> Tensor:
    cells = torch.zeros(len(masks), *size, dtype=torch.bool)
    cells[:, :, -1] = True
    return cells


@pytest.mark.parametrize("name", ["dense", "sparse", "instance"])
@pytest.mark.parametrize("offset,drawn", [(0, [0]), (2, [])])
def test_image_smaller_than_a_cell(name: str, offset: int, drawn: list[int]) -> None:
    scene = _scene(torch.ones(1, 1, 1, dtype=torch.bool), offset=offset)
    assert _drawn(build_sampler(name)(scene)) == drawn


@pytest.mark.parametrize("name", ["dense", "sparse", "instance"])
@pytest.mark.parametrize("count", [0, 2])
def test_no_instance_or_empty_masks_give_no_pixel(name: str, count: int) -> None:
    pixels = build_sampler(name)(_scene(torch.zeros(count, 40, 60, dtype=torch.bool)))
    assert pixels.features.shape == (0, 1) and pixels.locations.shape == (0, 2)
    assert pixels.context["number"].shape == (0,)


def test_masks_may_be_smaller_than_the_map_and_are_left_alone() -> None:
    masks = _mask((20, 30), (0, 0, 30, 20), (1, 1, 2, 2))
    before = masks.clone()
    scene = _scene(masks)
    scene.features = torch.zeros(1, 1, 10, 15)
    grid = instance_cells(scene, 0).view(2, 10, 15)
    assert grid[0].sum() == 5 * 7 and grid[1].sum() == 0
    assert torch.equal(masks, before)


@pytest.mark.parametrize("name", ["sparse", "instance"])
def test_draw_depends_on_the_seed_alone(name: str, make_scene: MakeScene) -> None:
    """Not on the place in the batch, on other images, or on the global generator."""
    sampler = build_sampler(name, pixels_per_instance=5, pixels_per_image=9)
    scene = make_scene([2, 3, 1])
    whole = sampler(scene)
    torch.manual_seed(123)
    parts = Pixels.cat([sampler(scene.views(slice(b, b + 1))) for b in range(3)])
    assert torch.equal(whole.features, parts.features) and torch.equal(whole.image_ids, parts.image_ids)
    scene.sample_seeds = [1, 2, 3]
    assert not torch.equal(whole.features, sampler(scene).features)
    scene.sample_seeds = None
    torch.manual_seed(0)
    first = sampler(scene)
    torch.manual_seed(0)
    assert torch.equal(first.features, sampler(scene).features)


def test_invalid_arguments() -> None:
    with pytest.raises(ValueError, match=r"'random'.*dense, sparse, instance"):
        build_sampler("random")
    with pytest.raises(ValueError, match="at least 1"):
        build_sampler("instance", pixels_per_instance=0)
