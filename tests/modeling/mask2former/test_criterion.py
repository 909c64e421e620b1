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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_are_the_written_out_ones(
    scene: tuple[list[Prediction], Tensor, list[Targets]], dtype: torch.dtype
) -> None:
    """Image by image and prediction by prediction, whatever the precision of the inputs is."""
    predictions, mask_features, targets = scene
    fixed = torch.rand(40, 2)
    module = criterion(importance_ratio=0.0)
    module.source = module.matcher.source = lambda rows, count, device: fixed[:count].repeat(rows, 3, 1)[:, :count]
    given = [Prediction(one.logits.to(dtype), one.embeddings.to(dtype)) for one in predictions]
    losses, matches = module(given, mask_features.to(dtype), targets, FRAME)
    assert list(losses) == [f"loss_{term}{suffix}" for suffix in ("", "_1", "_0") for term in ("ce", "mask", "dice")]
    expected = {}
    for suffix, one, query, target in zip(("_0", "_1", ""), given, matches.query, matches.target, strict=True):
        masks = Prediction(one.logits.float(), one.embeddings.float()).masks(mask_features.to(dtype).float())
        classes = torch.full((3, 6), 3)
        mask_loss: list[Tensor] = []
        dice_loss: list[Tensor] = []
        for image in (0, 2):
            rows, chosen = query[matches.image == image], target[matches.image == image]
            x = sample_maps(masks[image, rows][None], fixed[None])[0]
            t = sample_maps(pad(targets[image].masks[chosen])[None], fixed[None])[0]
            mask_loss.append(mask_losses.cross_entropy(x, t).sum())
            dice_loss.append(mask_losses.dice(x, t).sum())
            classes[image, rows] = targets[image].labels[chosen]
        weight = torch.where(classes == 3, 0.1, 1.0)
        cross = F.cross_entropy(one.logits.float().flatten(0, 1), classes.flatten(), reduction="none")
        expected[f"loss_mask{suffix}"] = 5 * torch.stack(mask_loss).sum() / 5
        expected[f"loss_dice{suffix}"] = 4 * torch.stack(dice_loss).sum() / 5
        expected[f"loss_ce{suffix}"] = 2 * (cross * weight.flatten()).sum() / weight.sum()
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name])
    if dtype == torch.float32:  # the twin rounds a gradient of half precision once a prediction
        leaves = [mask_features, *(part for one in predictions for part in (one.logits, one.embeddings))]
        wanted = torch.autograd.grad(torch.stack(list(expected.values())).sum(), leaves)
        found = torch.autograd.grad(torch.stack(list(losses.values())).sum(), leaves)
        for mine, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, theirs)


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
