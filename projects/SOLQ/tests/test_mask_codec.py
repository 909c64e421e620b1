"""Masks to vectors and back, and into the image, against twins that take one mask and one cell at a time."""

import pytest
import torch
from torch import Tensor

from helpers.scenes import discs
from projects.SOLQ.mask_codec import MaskCodec, cosines, zigzag
from projects.SOLQ.paste import pasted_patches
from projects.SOLQ.tests.slow_twins import LoopCodec, paste_one, walk

SIDE, KEPT = 32, 40


def test_zigzag_is_the_walk() -> None:
    assert zigzag(5) == walk(5)
    assert zigzag(128)[:7] == [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3)]


def test_cosines_are_orthonormal() -> None:
    waves = cosines(SIDE)
    torch.testing.assert_close(waves @ waves.T, torch.eye(SIDE, dtype=torch.float64))


def test_vectors_of_all_masks_equal_those_of_one_at_a_time() -> None:
    codec, twin = MaskCodec(SIDE, KEPT), LoopCodec(SIDE, KEPT)
    instances = discs(64, 96, 5, seed=1)["instances"]
    masks, boxes = instances.gt_masks.tensor, instances.gt_boxes.tensor
    boxes = boxes + torch.tensor([[0.3, -2.5, 4.2, 0.7]])
    ours = codec.encode(codec.crop(masks, boxes))
    expected = torch.stack([twin.encode_one(mask, box) for mask, box in zip(masks, boxes, strict=True)])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert ours.abs().max() > 5


def test_patches_of_all_vectors_equal_those_of_one_at_a_time() -> None:
    codec, twin = MaskCodec(SIDE, KEPT), LoopCodec(SIDE, KEPT)
    vectors = torch.randn(6, KEPT, generator=torch.Generator().manual_seed(0))
    assert torch.equal(codec.decode(vectors), twin.decode(vectors))


def test_the_threshold_is_the_middle_of_a_patch() -> None:
    """Whatever the scale and the mean: a mask is never empty unless its patch is constant."""
    codec = MaskCodec(SIDE, KEPT)
    vector = torch.randn(1, KEPT, generator=torch.Generator().manual_seed(0))
    other = 0.01 * vector
    other[:, 0] += 100.0
    assert torch.equal(codec.decode(vector), codec.decode(other)) and codec.decode(vector).any()
    assert not codec.decode(torch.zeros(1, KEPT)).any()


def test_flipped_masks_have_flipped_signs() -> None:
    codec = MaskCodec(SIDE, KEPT)
    patches = codec.crop(*_masks_and_boxes())
    signs = (-1.0) ** codec.column
    torch.testing.assert_close(codec.encode(patches.flip(2)), codec.encode(patches) * signs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(60, 90), (7, 300)])
def test_all_patches_are_pasted_like_one_at_a_time(size: tuple[int, int]) -> None:
    """Also those of boxes that reach outside, lie there, or are smaller than a pixel."""
    generator = torch.Generator().manual_seed(0)
    patches = MaskCodec(SIDE, KEPT).decode(torch.randn(20, KEPT, generator=generator))
    corner = torch.rand(20, 2, generator=generator) * 1.4 - 0.2
    sides = torch.rand(20, 2, generator=generator) ** 3
    boxes = torch.cat([corner - sides / 2, corner + sides / 2], dim=1) * torch.tensor([size[1], size[0]] * 2)
    boxes[0] = torch.tensor([1000.0, 3.0, 1020.0, 9.0])
    boxes[1] = torch.tensor([4.2, 3.1, 4.5, 3.4])
    ours = torch.cat(list(pasted_patches(patches, boxes, size)))
    expected = torch.stack([paste_one(patch, box, size) for patch, box in zip(patches, boxes, strict=True)])
    assert 0 < expected.sum() < expected.numel() and (ours != expected).float().mean() < 1e-4


def test_pasting_takes_a_few_masks_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    patches, boxes = torch.ones(5, 4, 4, dtype=torch.bool), torch.tensor([[0.0, 0.0, 4.0, 4.0]]).expand(5, -1)
    monkeypatch.setattr("projects.SOLQ.paste._CHUNK_BYTES", 2 * 16)
    assert [len(chunk) for chunk in pasted_patches(patches, boxes, (4, 4))] == [2, 2, 1]
    assert list(pasted_patches(patches[:0], boxes[:0], (4, 4))) == []


def _masks_and_boxes() -> tuple[Tensor, Tensor]:
    instances = discs(64, 96, 5, seed=1)["instances"]
    return instances.gt_masks.tensor, instances.gt_boxes.tensor
