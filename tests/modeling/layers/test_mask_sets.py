"""Masks as run lengths say the same as masks in a tensor."""

import pytest
import torch
from detectron2.structures import Instances
from torch import Tensor

from adet_iuq.modeling.layers import MaskWindow, boxes_around, encoded_masks, mask_boxes, stacked_masks

CPU = torch.device("cpu")


@pytest.fixture
def masks() -> Tensor:
    found = torch.rand(5, 7, 11, generator=torch.Generator().manual_seed(0)) > 0.7
    found[2], found[3] = False, True
    return found


def test_both_ways_hold_the_same_masks_and_boxes(masks: Tensor) -> None:
    encoded = encoded_masks(masks.split(2), (7, 11))
    assert torch.equal(encoded.decoded(), masks)
    assert torch.equal(stacked_masks(iter(masks.split(2)), 5, (7, 11), CPU), masks)
    assert torch.equal(boxes_around(encoded, CPU), mask_boxes(masks)) and torch.equal(
        boxes_around(masks, CPU), mask_boxes(masks)
    )


@pytest.mark.parametrize(
    ("top", "left", "size"),
    [(0, 0, (7, 11)), (1, 2, (9, 14)), (3, 5, (20, 30)), (0, 2, (7, 40)), (2, 0, (9, 30)), (13, 29, (20, 40))],
    ids=["whole image", "most of it", "inside", "full height", "lower left", "lower right"],
)
def test_windows_hold_the_masks_of_whole_images(masks: Tensor, top: int, left: int, size: tuple[int, int]) -> None:
    """To the byte: run lengths are compared and stored as text."""
    whole = torch.zeros(5, *size, dtype=torch.bool)
    whole[:, top : top + 7, left : left + 11] = masks
    windows = [MaskWindow(part, top, left) for part in masks.split(2)]
    assert torch.equal(stacked_masks(windows, 5, size, CPU), whole)
    assert encoded_masks(windows, size).rles == encoded_masks([whole], size).rles


def test_an_empty_window_is_an_empty_mask() -> None:
    window = MaskWindow(torch.zeros(2, 0, 0, dtype=torch.bool), 0, 0)
    assert (
        encoded_masks([window], (7, 11)).rles == encoded_masks([torch.zeros(2, 7, 11, dtype=torch.bool)], (7, 11)).rles
    )
    assert not stacked_masks([window], 2, (7, 11), CPU).any()


def test_no_masks() -> None:
    encoded = encoded_masks([], (7, 11))
    assert len(encoded) == 0 and encoded.decoded().shape == (0, 7, 11) and boxes_around(encoded, CPU).shape == (0, 4)


def test_instances_choose_among_them(masks: Tensor) -> None:
    instances = Instances((7, 11), pred_masks=encoded_masks([masks], (7, 11)), scores=torch.arange(5) / 5)
    chosen = instances.scores > 0.3
    assert torch.equal(instances[chosen].pred_masks.decoded(), masks[chosen])
    assert torch.equal(instances[instances.scores.argsort(descending=True)].pred_masks.decoded(), masks.flip(0))
    assert torch.equal(instances[1:3].to("cpu").pred_masks.decoded(), masks[1:3])
