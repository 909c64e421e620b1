"""Grid targets and quarter-size masks against one instance, level and pixel at a time; mirrored images."""

import math

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks
from torch import Tensor

from adet_iuq.iuq import CropFlip
from adet_iuq.modeling.grid import GridLayout, GridTruth, assign_cells, quarter_masks
from helpers.grid_cells import cells_of_instances, is_sharp
from helpers.scenes import discs

LAYOUT = GridLayout(
    sizes=(40, 36, 24, 16, 12),
    strides=(8, 8, 16, 32, 32),
    scale_ranges=((1, 24), (16, 48), (32, 72), (60, 100), (80, 2048)),
    sigma=0.2,
)
CLASSES = 7


def scene(height: int, width: int, count: int, seed: int) -> GridTruth:
    """Random blobs, some of them empty, some only a pixel."""
    generator = torch.Generator().manual_seed(seed)
    masks = discs(height, width, count, seed)["instances"].gt_masks.tensor
    for mask in masks[::5]:
        y, x = (torch.rand(2, generator=generator) * torch.tensor([height, width])).long().tolist()
        mask[:] = False
        mask[y, x] = True
    if count > 3:
        masks[3] = False
    boxes = torch.rand(count, 4, generator=generator) * torch.tensor([width, height, width, height]).float()
    corner = torch.minimum(boxes[:, :2], boxes[:, 2:])
    boxes = torch.cat([corner, torch.maximum(boxes[:, :2], boxes[:, 2:])], dim=1)  # not the masks' boxes: both count
    return GridTruth(boxes, torch.randint(0, CLASSES, (count,), generator=generator), masks)


def cell(position: float, side: int, size: int) -> int:
    return int(torch.div(torch.tensor(position) / side, torch.tensor(1 / size), rounding_mode="floor"))


def slow_assignment(truths: list[GridTruth], frame: tuple[int, int]) -> tuple[set[tuple[int, int, int]], Tensor]:
    """All (image, cell, instance), and the labels, as docs/parity/solov2.md, "Targets", has them."""
    pairs = set()
    labels = torch.full((len(truths), sum(LAYOUT.counts)), CLASSES)
    for b, truth in enumerate(truths):
        start = 0
        for size, (low, high) in zip(LAYOUT.sizes, LAYOUT.scale_ranges, strict=True):
            for k in range(len(truth.boxes)):
                w, h = (truth.boxes[k, 2:] - truth.boxes[k, :2]).tolist()
                y, x = torch.nonzero(truth.masks[k]).float().T
                if len(x) == 0 or not low <= math.sqrt(w * h) <= high:
                    continue
                spans = []
                for centre, half, side in ((y.mean(), 0.1 * h, frame[0]), (x.mean(), 0.1 * w, frame[1])):
                    middle = cell(float(centre), side, size)
                    first = max(0, cell(float(centre) - half, side, size), middle - 1)
                    last = min(size - 1, cell(float(centre) + half, side, size), middle + 1)
                    spans.append(range(first, last + 1))
                for row in spans[0]:
                    for column in spans[1]:
                        pairs.add((b, start + row * size + column, k))
                        labels[b, start + row * size + column] = truth.classes[k]
            start += size**2
    return pairs, labels


@pytest.mark.parametrize("frame", [(160, 192), (256, 256)])
def test_assignment_equals_one_instance_and_level_at_a_time(frame: tuple[int, int]) -> None:
    truths = [scene(150, 191, 30, seed=1), scene(160, 120, 0, seed=2), scene(97, 143, 25, seed=3)]
    targets = assign_cells(LAYOUT, truths, frame, CLASSES)
    pairs, labels = slow_assignment(truths, frame)
    found = list(zip(*(x.tolist() for x in (targets.image, targets.cell, targets.instance)), strict=True))
    assert len(found) == len(set(found)) == len(targets) > 60
    assert set(found) == pairs
    assert torch.equal(targets.labels, labels)
    claims = torch.bincount(targets.image * labels.shape[1] + targets.cell, minlength=labels.numel())
    assert (claims > 1).any(), "no cell is claimed twice: the later instance's right was not tested"
    assert torch.equal(claims.view_as(labels) > 0, labels < CLASSES)


def test_cells_on_a_boundary_are_rounded_as_published() -> None:
    """The centre's position / side = 0.5 with 40 cells gives 19 in float32, not 20."""
    mask = torch.zeros(1, 320, 320, dtype=torch.bool)
    mask[0, 160, 160] = True
    truth = GridTruth(torch.tensor([[159.0, 159, 161, 161]]), torch.tensor([2]), mask)
    layout = GridLayout((40,), (8,), ((1, 96),), 0.0)
    targets = assign_cells(layout, [truth], (320, 320), CLASSES)
    assert targets.cell.tolist() == [19 * 40 + 19]


def test_both_ends_of_a_scale_range_belong_to_its_level() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 8:24, 8:24] = True
    truth = GridTruth(torch.tensor([[8.0, 8, 24, 24]]), torch.tensor([0]), mask)
    layout = GridLayout((4, 4, 4, 4), (8, 8, 8, 8), ((1, 16), (16, 32), (1, 15.9), (16.1, 32)), 0.0)
    targets = assign_cells(layout, [truth], (64, 64), CLASSES)
    assert sorted(set((targets.cell // 16).tolist())) == [0, 1]


def test_nothing_to_assign() -> None:
    empty = GridTruth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, 64, 64, dtype=torch.bool))
    targets = assign_cells(LAYOUT, [empty, empty], (64, 64), CLASSES)
    assert len(targets) == 0 and (targets.labels == CLASSES).all()
    hollow = GridTruth(torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([0]), torch.zeros(1, 64, 64, dtype=torch.bool))
    assert len(assign_cells(LAYOUT, [hollow], (64, 64), CLASSES)) == 0


def test_mirrored_annotations_give_mirrored_targets() -> None:
    """On a frame without padding, for instances whose region does not end within a pixel of a boundary between cells."""
    height, width = 160, 192
    masks = discs(height, width, 12, seed=4)["instances"].gt_masks.tensor
    layout = GridLayout((16, 10), (8, 16), ((1, 2048), (30, 60)), 0.2)
    straight = cells_of(masks, layout)
    mirrored = cells_of(CropFlip(0, 0, width, height, flip=True).masks(masks), layout)
    sharp = [k for k in range(len(masks)) if all(is_sharp(masks[k], width / size) for size in layout.sizes)]
    assert len(sharp) >= 4
    for k in sharp:
        expected = {(level, row, layout.sizes[level] - 1 - column) for level, row, column in straight[k]}
        assert mirrored[k] == expected and len(expected) > 0
    assert any(mirrored[k] != straight[k] for k in sharp)


def cells_of(masks: Tensor, layout: GridLayout) -> list[set[tuple[int, int, int]]]:
    """(level, row, column) of the cells of every instance of an image that fills its frame, with the masks' boxes."""
    boxes = BitMasks(masks).get_bounding_boxes().tensor
    truth = GridTruth(boxes, torch.zeros(len(masks), dtype=torch.long), masks)
    targets = assign_cells(layout, [truth], (masks.shape[1], masks.shape[2]), 1)
    return cells_of_instances(targets, layout, len(masks))


@pytest.mark.parametrize("size", [(64, 96), (150, 131), (149, 171), (7, 1001), (5, 3), (2, 2), (333, 426)])
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_quarter_masks_equal_opencv(size: tuple[int, int], kind: str) -> None:
    generator = torch.Generator().manual_seed(size[0])
    if kind == "noise":
        masks = torch.rand(5, *size, generator=generator) < torch.tensor([0.1, 0.3, 0.5, 0.7, 1.0])[:, None, None]
    else:
        y, x = torch.meshgrid(torch.arange(size[0]) / size[0], torch.arange(size[1]) / size[1], indexing="ij")
        waves = torch.rand(5, 4, 1, 1, generator=generator) * 20
        masks = torch.sin(waves[:, 0] * x + waves[:, 1] * y + waves[:, 2]) > waves[:, 3] / 20 - 0.5
    height, width = (int(side / 4 + 0.5) for side in size)
    published = [
        cv2.resize(mask.numpy().astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR) for mask in masks
    ]
    expected = torch.zeros(5, height + 3, width + 1)
    expected[:, :height, :width] = torch.as_tensor(np.stack(published)).float().view(5, height, width)
    assert torch.equal(quarter_masks(masks, (height + 3, width + 1)), expected)


def test_quarter_masks_of_whole_cells_is_two_of_the_four_central_pixels() -> None:
    masks = torch.rand(4, 24, 32) < 0.5
    central = torch.stack([masks[:, i::4, j::4] for i in (1, 2) for j in (1, 2)]).sum(0)
    assert torch.equal(quarter_masks(masks, (6, 8)), (central >= 2).float())


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_quarter_masks_of_less_than_half_a_cell_are_empty(size: tuple[int, int]) -> None:
    assert quarter_masks(torch.ones(2, *size, dtype=torch.bool), (10, 10)).sum() == 0
    assert quarter_masks(torch.ones(0, 16, 16, dtype=torch.bool), (4, 4)).shape == (0, 4, 4)
