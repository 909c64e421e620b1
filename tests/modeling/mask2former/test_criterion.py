"""Mask2Former's losses against the written-out ones, which predictions they train, and inputs that break careless code."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.mask2former import mask_losses
from adet_iuq.modeling.mask2former.criterion import SetCriterion
from adet_iuq.modeling.mask2former.matcher import Targets
from adet_iuq.modeling.mask2former.points import sample_maps
from adet_iuq.modeling.mask2former.transformer_decoder import Prediction
from helpers.mask2former_scene import FRAME, pad, random_scene


@pytest.fixture
def scene() -> tuple[list[Prediction], Tensor, list[Targets]]:
    return random_scene()


def criterion(**changes: Any) -> SetCriterion:
    settings = {
        "num_classes": 3, "no_object_weight": 0.1, "class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 4.0,
        "num_points": 40, "oversample_ratio": 3.0, "importance_ratio": 0.75, "deep_supervision": True,
    }  # fmt: skip
    return SetCriterion(**{**settings, **changes})


def test_more_targets_than_queries_and_costs_that_are_not_finite() -> None:
    many = Targets(torch.zeros(9, dtype=torch.long), torch.rand(9, *FRAME) > 0.5)
    logits = torch.randn(1, 6, 4)
    logits[0, 0] = torch.nan
    prediction = Prediction(logits, torch.randn(1, 6, 5))
    losses, matches = criterion()([prediction], torch.randn(1, 5, 8, 12), [many], FRAME)
    assert matches.counts == [6] and len(matches.target[0].unique()) == 6
    assert losses["loss_ce"].isnan() and losses["loss_mask"].isfinite()


def test_losses_are_the_written_out_ones(scene: tuple[list[Prediction], Tensor, list[Targets]]) -> None:
    predictions, mask_features, targets = scene
    fixed = torch.rand(40, 2)
    module = criterion(importance_ratio=0.0)
    module.source = module.matcher.source = lambda rows, count, device: fixed[:count].repeat(rows, 3, 1)[:, :count]
    losses, matches = module(predictions, mask_features, targets, FRAME)
    assert list(losses) == [f"loss_{term}{suffix}" for suffix in ("", "_1", "_0") for term in ("ce", "mask", "dice")]
    for suffix, prediction, query, target in zip(
        ("_0", "_1", ""), predictions, matches.query, matches.target, strict=True
    ):
        masks = prediction.masks(mask_features)[0, query]
        x = sample_maps(masks[None], fixed[None])[0]
        t = sample_maps(pad(targets[0].masks[target])[None], fixed[None])[0]
        expected = 5 * mask_losses.cross_entropy(x, t).sum() / 3
        torch.testing.assert_close(losses[f"loss_mask{suffix}"], expected)
        torch.testing.assert_close(losses[f"loss_dice{suffix}"], 4 * mask_losses.dice(x, t).sum() / 3)
        classes = torch.full((2, 6), 3)
        classes[0, query] = targets[0].labels[target]
        weight = torch.where(classes == 3, 0.1, 1.0)
        cross = F.cross_entropy(prediction.logits.flatten(0, 1), classes.flatten(), reduction="none")
        torch.testing.assert_close(losses[f"loss_ce{suffix}"], 2 * (cross * weight.flatten()).sum() / weight.sum())


def test_without_deep_supervision_only_the_last_prediction_is_trained(
    scene: tuple[list[Prediction], Tensor, list[Targets]],
) -> None:
    predictions, mask_features, targets = scene
    losses, matches = criterion(deep_supervision=False)(predictions, mask_features, targets, FRAME)
    assert list(losses) == ["loss_ce", "loss_mask", "loss_dice"] and len(matches) == 1
    torch.stack(list(losses.values())).sum().backward()
    assert predictions[0].logits.grad is None and predictions[2].logits.grad is not None


def test_points_are_fixed_by_the_seed(scene: tuple[list[Prediction], Tensor, list[Targets]]) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(criterion()(*scene, FRAME)[0]["loss_mask"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
