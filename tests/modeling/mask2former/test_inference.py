"""Instances, panoptic segments and semantic maps against the rules one by one, and masks in windows against whole images."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.mask2former.inference import (
    OutputGeometry,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from helpers.mask2former_scene import FRAME
from helpers.scenes import windowed_maps


def test_resizing_in_chunks_equals_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, geometry = torch.randn(7, 8, 12), OutputGeometry(FRAME, (30, 40), (61, 35))
    expected = F.interpolate(masks[None], size=FRAME, mode="bilinear", align_corners=False)[..., :30, :40]
    expected = F.interpolate(expected, size=(61, 35), mode="bilinear", align_corners=False)[0]
    monkeypatch.setattr("adet_iuq.modeling.mask2former.inference.CHUNK_BYTES", 4 * 32 * 48 * 2)
    torch.testing.assert_close(geometry.resize(masks), expected)


@pytest.mark.parametrize("output", [(30, 40), (61, 35), (12, 90)])
def test_windows_hold_what_whole_images_have_above_zero(output: tuple[int, int]) -> None:
    masks, geometry = windowed_maps(8, 12) - 0.5, OutputGeometry(FRAME, (30, 40), output)
    full = geometry.resize(masks)
    for whole, (values, top, left) in zip(full, geometry.windows(masks), strict=True):
        part = torch.full(output, -1.0)
        part[top : top + values.shape[1], left : left + values.shape[2]] = values[0]
        assert torch.equal(part > 0, whole > 0)
        torch.testing.assert_close(part[part > 0], whole[whole > 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("encode", [False, True])
def test_instances_are_the_best_pairs_one_by_one(encode: bool) -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(5, 4), torch.randn(5, 8, 12)
    masks[2] = -1.0  # an empty mask
    masks[3, 4:] = masks[3, :, :3] = -2.0  # a window
    geometry = OutputGeometry(FRAME, (30, 40), (30, 40))
    found = instance_inference(logits, masks, geometry, count=12, things=[0, 2], encode=encode)
    pred_masks = found.pred_masks.decoded() if encode else found.pred_masks
    full = geometry.resize(masks)
    best = sorted(((s, q, c) for q, row in enumerate(logits.softmax(-1)[:, :3].tolist()) for c, s in enumerate(row)))
    expected = []
    for score, query, label in best[-12:]:
        inside = full[query] > 0
        quality = (full[query].sigmoid() * inside).sum() / (inside.sum() + 1e-6)
        if label in (0, 2):
            expected.append((score * float(quality), label, int(inside.sum())))
    ours = zip(found.scores.tolist(), found.pred_classes.tolist(), pred_masks.sum((1, 2)).tolist(), strict=True)
    for one, other in zip(sorted(ours), sorted(expected), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert len(instance_inference(logits, masks, geometry, count=100, things=None)) == 15  # fewer pairs than asked for


def slow_panoptic(
    logits: Tensor, masks: Tensor, things: list[int], score_threshold: float, overlap: float
) -> tuple[Tensor, list[tuple[int, bool, int]]]:
    """The rules of docs/parity/mask2former.md, "Inference", query by query."""
    probabilities = logits.softmax(-1)
    kept = [
        q
        for q in range(len(logits))
        if probabilities[q].argmax() != logits.shape[1] - 1 and probabilities[q].max() > score_threshold
    ]
    result = torch.zeros(masks.shape[1:], dtype=torch.int32)
    segments: list[tuple[int, bool, int]] = []
    stuff: dict[int, int] = {}
    if not kept:
        return result, []
    owner = torch.stack([probabilities[q].max() * masks[q].sigmoid() for q in kept]).argmax(0)
    for index, q in enumerate(kept):
        a, b, label = owner == index, masks[q].sigmoid() >= 0.5, int(probabilities[q].argmax())
        if not a.any() or not b.any() or not (a & b).any() or a.sum() / b.sum() < overlap:
            continue
        if label not in things and label in stuff:
            result[a & b] = stuff[label]
            continue
        segments.append((len(segments) + 1, label in things, label))
        if label not in things:
            stuff[label] = len(segments)
        result[a & b] = len(segments)
    return result, segments


@pytest.mark.parametrize("score_threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("overlap", [0.0, 0.4])
def test_panoptic_rules_one_by_one(score_threshold: float, overlap: float) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        logits, masks = torch.randn(12, 5) * 3, torch.randn(12, 20, 30) * 3 - 1
        ours, segments = panoptic_inference(logits, masks, [0, 1], score_threshold, overlap)
        expected, rows = slow_panoptic(logits, masks, [0, 1], score_threshold, overlap)
        assert torch.equal(ours, expected)
        assert [(one["id"], one["isthing"], one["category_id"]) for one in segments] == rows


def test_semantic_map_sums_over_queries() -> None:
    logits, masks = torch.randn(3, 5), torch.randn(3, 6, 7)
    expected = sum(
        logits[q].softmax(-1)[:-1, None, None] * masks[q].sigmoid() for q in range(3)
    )  # what query q says of each class and pixel
    torch.testing.assert_close(semantic_inference(logits, masks), expected)
