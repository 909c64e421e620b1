"""SOTRIUQ: what it adds in training, who gets a gradient, and that evaluation is SOTR's."""

from typing import Any

import pytest
import torch

from adet_iuq.modeling.sotr import SOTRIUQ
from helpers.grid_checks import (
    AT_ONCE,
    check_base_losses_of_both_views,
    check_bfloat16_trains,
    check_empty_batch_trains_every_parameter,
    check_evaluation_is_bit_equal,
    check_same_seed_same_losses,
    check_sizes,
    check_switched_off_is_the_base_model,
    check_two_more_losses,
    everything_detected,
    gradient_sizes,
    grid_options,
    quieten,
    train_step,
    two_scenes,
)
from helpers.scenes import small_model

SMALL = grid_options("SOTR")
IUQ, BASE = "SOTR/R50_iuq.yaml", "SOTR/R50_paper.yaml"
TRANSFORMER = "cate_head.transformer."


def open_gates(model: Any) -> None:
    """As after some training; with the gates shut the transformer's inner weights get no gradient at all."""
    for name, parameter in model.named_parameters():
        if name.startswith(TRANSFORMER) and name.endswith(".g"):
            torch.nn.init.constant_(parameter, 0.1)


@pytest.fixture(scope="module")
def model() -> Any:
    model = small_model(IUQ, *SMALL, *AT_ONCE, *everything_detected("SOTR"))
    assert type(model) is SOTRIUQ
    quieten(model)
    open_gates(model)
    return model


@pytest.fixture(scope="module")
def base() -> Any:
    return small_model(BASE, *SMALL, *everything_detected("SOTR"), seed=1)


def test_losses_are_the_base_losses_and_two_more(model: Any) -> None:
    check_two_more_losses(model)


def test_base_losses_of_both_views_are_sotrs(model: Any, base: Any) -> None:
    check_base_losses_of_both_views(model, base)


def test_inter_loss_reaches_the_query_creator_only(model: Any) -> None:
    """Memory pixels are constants, classes no queries: what made the kernels learns, and nothing else."""
    sizes = gradient_sizes(model, train_step(model, two_scenes())[0]["loss_inter"])
    assert sizes["cate_head.kernel_pred.weight"] > 0 and sizes["cate_head.kernel_pred.bias"] > 0
    assert all(size > 0 for name, size in sizes.items() if name.startswith(TRANSFORMER))
    assert sizes["backbone.fpn_lateral3.weight"] > 0 and sizes["backbone.bottom_up.res3.0.conv1.weight"] > 0
    assert sizes["cate_head.cate_pred.weight"] == sizes["cate_head.cate_pred.bias"] == 0
    assert all(size == 0 for name, size in sizes.items() if name.startswith("mask_head"))


def test_inter_loss_with_shut_gates_reaches_the_gates_and_the_backbone() -> None:
    model = small_model(IUQ, *SMALL, *AT_ONCE)
    sizes = gradient_sizes(model, train_step(model, two_scenes())[0]["loss_inter"])
    for name, size in sizes.items():
        if name.startswith(TRANSFORMER):
            assert (size > 0) == name.endswith(".g"), name
    assert sizes["cate_head.kernel_pred.weight"] > 0
    assert sizes["backbone.fpn_lateral3.weight"] > 0 and sizes["backbone.bottom_up.res3.0.conv1.weight"] > 0


def test_equi_loss_reaches_queries_and_features(model: Any) -> None:
    sizes = gradient_sizes(model, train_step(model, two_scenes())[0]["loss_equi"])
    assert sizes["cate_head.kernel_pred.weight"] > 0
    assert all(size > 0 for name, size in sizes.items() if name.startswith((TRANSFORMER, "mask_head")))
    assert sizes["cate_head.cate_pred.weight"] == 0


def test_switched_off_is_sotr(base: Any) -> None:
    check_switched_off_is_the_base_model(IUQ, base, *SMALL, *AT_ONCE)


def test_evaluation_is_bit_equal(model: Any, base: Any) -> None:
    check_evaluation_is_bit_equal(model, base)


def test_empty_batch() -> None:
    check_empty_batch_trains_every_parameter(IUQ, *SMALL, *AT_ONCE)


def test_same_seed_same_losses() -> None:
    check_same_seed_same_losses(IUQ, *SMALL, *AT_ONCE)


def test_bfloat16_trains(model: Any) -> None:
    check_bfloat16_trains(model)


def test_sizes(model: Any) -> None:
    check_sizes(model)
