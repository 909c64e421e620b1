"""Suppression of masks against one pair at a time."""

import math

import pytest
import torch
from torch import Tensor

from adet_iuq.modeling.grid import mask_nms, matrix_nms, point_nms, same_class_ious


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Overlapping rectangles as flat masks, and classes."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 20, 30, dtype=torch.bool)
    for mask in masks:
        y, x, h, w = (torch.rand(4, generator=generator) * torch.tensor([10, 15, 9, 14])).long().tolist()
        mask[y : y + h + 1, x : x + w + 1] = True
    return masks.flatten(1), torch.randint(0, 3, (count,), generator=generator)


def iou(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("chunk", [7, 8192])
def test_ious_equal_one_pair_at_a_time(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adet_iuq.modeling.grid.suppression.CHUNK_CELLS", chunk)
    masks, classes = blobs(15, seed=1)
    which = torch.cat([torch.randperm(15), torch.tensor([3, 0, 9])])  # some masks stand for two classes
    classes = torch.cat([classes, (classes[:3] + 1) % 3])
    ious = same_class_ious(masks, which, masks.sum(1).float()[which], classes)
    for i in range(18):
        for j in range(18):
            same = i < j and classes[i] == classes[j]
            assert float(ious[i, j]) == pytest.approx(iou(masks[which[i]], masks[which[j]]) if same else 0.0, abs=1e-6)
    assert (ious > 0).sum() > 10


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_matrix_nms_equals_one_score_at_a_time(kernel: str) -> None:
    masks, classes = blobs(14, seed=2)
    scores = torch.rand(14).sort(descending=True).values
    index = torch.arange(14)
    found = matrix_nms(scores, same_class_ious(masks, index, masks.sum(1).float(), classes), kernel, 2.0)

    def overlap(i: int, j: int) -> float:
        return iou(masks[i], masks[j]) if i < j and classes[i] == classes[j] else 0.0

    def f(x: float) -> float:
        return math.exp(-2.0 * x**2) if kernel == "gaussian" else 1 - x

    covered = [max(overlap(k, i) for k in range(14)) for i in range(14)]
    for j in range(14):
        decay = min(f(overlap(i, j)) / f(covered[i]) for i in range(14))
        assert float(found[j]) == pytest.approx(float(scores[j]) * decay, abs=1e-6)
    assert (found < scores).any() and found[0] == scores[0]


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_duplicates_of_any_number_decay_and_stay_finite(kernel: str) -> None:
    """The linear kernel's divisor is 0 at a full duplicate, and published scores then are NaN."""
    masks = torch.ones(4, 50, dtype=torch.bool)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    ious = same_class_ious(masks, torch.arange(4), masks.sum(1).float(), torch.zeros(4, dtype=torch.long))
    found = matrix_nms(scores, ious, kernel, 2.0)
    assert found[0] == scores[0]
    expected = scores[1:] * math.exp(-2) if kernel == "gaussian" else torch.zeros(3)
    torch.testing.assert_close(found[1:], expected)


def test_mask_nms_is_greedy() -> None:
    masks, classes = blobs(25, seed=3)
    index = torch.arange(25)
    keep = mask_nms(same_class_ious(masks, index, masks.sum(1).float(), classes), 0.3)
    kept: list[int] = []
    for j in range(25):
        if all(classes[i] != classes[j] or iou(masks[i], masks[j]) <= 0.3 for i in kept):
            kept.append(j)
    assert torch.nonzero(keep)[:, 0].tolist() == kept and 5 < len(kept) < 25


def test_mask_nms_keeps_an_iou_of_exactly_the_threshold() -> None:
    ious = torch.tensor([[0.0, 0.5, 0.51], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert mask_nms(ious, 0.5).tolist() == [True, True, False]


def test_point_nms_looks_up_and_left_and_keeps_ties() -> None:
    scores = torch.rand(2, 3, 6, 7)
    scores[0, 0, 2, 2] = scores[0, 0, 2, 3] = 2.0
    found = point_nms(scores)
    for b, c, i, j in torch.cartesian_prod(*(torch.arange(n) for n in scores.shape)).tolist():
        window = scores[b, c, max(i - 1, 0) : i + 1, max(j - 1, 0) : j + 1]
        assert found[b, c, i, j] == (scores[b, c, i, j] if scores[b, c, i, j] == window.max() else 0)
    assert found[0, 0, 2, 2] == found[0, 0, 2, 3] == 2.0


def test_nothing_to_suppress() -> None:
    none = torch.zeros(0, dtype=torch.long)
    ious = same_class_ious(torch.zeros(0, 9, dtype=torch.bool), none, torch.zeros(0), none)
    assert ious.shape == (0, 0)
    assert len(matrix_nms(torch.zeros(0), ious, "gaussian", 2.0)) == len(mask_nms(ious, 0.5)) == 0
