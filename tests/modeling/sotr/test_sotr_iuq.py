"""SOTRIUQ: who gets a gradient from the two losses that it adds."""

from typing import Any

import pytest

from helpers.grid_checks import (
    AT_ONCE,
    SMALL_SOTR,
    TRANSFORMER,
    gradient_sizes,
    open_gates,
    quieten,
    train_step,
    two_scenes,
)
from helpers.scenes import small_model

IUQ = "SOTR/R50_iuq.yaml"


@pytest.fixture(scope="module")
def model() -> Any:
    model = small_model(IUQ, *SMALL_SOTR, *AT_ONCE)
    quieten(model)
    open_gates(model)
    return model


def test_inter_loss_reaches_the_query_creator_only(model: Any) -> None:
    """Memory pixels are constants, classes no queries: what made the kernels learns, and nothing else."""
    sizes = gradient_sizes(model, train_step(model, two_scenes())[0]["loss_inter"])
    assert sizes["cate_head.kernel_pred.weight"] > 0 and sizes["cate_head.kernel_pred.bias"] > 0
    assert all(size > 0 for name, size in sizes.items() if name.startswith(TRANSFORMER))
    assert sizes["backbone.fpn_lateral3.weight"] > 0 and sizes["backbone.bottom_up.res3.0.conv1.weight"] > 0
    assert sizes["cate_head.cate_pred.weight"] == sizes["cate_head.cate_pred.bias"] == 0
    assert all(size == 0 for name, size in sizes.items() if name.startswith("mask_head"))


def test_inter_loss_with_shut_gates_reaches_the_gates_and_the_backbone() -> None:
    model = small_model(IUQ, *SMALL_SOTR, *AT_ONCE)
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
