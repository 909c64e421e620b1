"""SOLOv2IUQ: what it adds in training, who gets a gradient, and that evaluation is SOLOv2's."""

from typing import Any

import pytest
import torch

from adet_iuq.modeling.solov2 import SOLOv2IUQ
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

SMALL = (
    *grid_options("SOLOV2"), "MODEL.SOLOV2.INSTANCE_CHANNELS", "32", "MODEL.FPN.OUT_CHANNELS", "32",
    "MODEL.SOLOV2.INSTANCE_IN_CHANNELS", "32", "MODEL.SOLOV2.MASK_IN_CHANNELS", "32",
)  # fmt: skip
IUQ, BASE = "SOLOv2/R50_1x_iuq.yaml", "SOLOv2/R50_1x_paper.yaml"


@pytest.fixture(scope="module")
def model() -> Any:
    model = small_model(IUQ, *SMALL, *AT_ONCE, *everything_detected("SOLOV2"))
    assert type(model) is SOLOv2IUQ
    quieten(model)
    return model


@pytest.fixture(scope="module")
def base() -> Any:
    return small_model(BASE, *SMALL, *everything_detected("SOLOV2"), seed=1)


def test_losses_are_the_base_losses_and_two_more(model: Any) -> None:
    check_two_more_losses(model)


def test_base_losses_of_both_views_are_solov2s(model: Any, base: Any) -> None:
    check_base_losses_of_both_views(model, base)


def test_inter_loss_reaches_the_query_creator_only(model: Any) -> None:
    """Memory pixels are constants, classes no queries: the kernel tower learns, and the backbone, and nothing else."""
    sizes = gradient_sizes(model, train_step(model, two_scenes())[0]["loss_inter"])
    assert sizes["backbone.fpn_lateral3.weight"] > 0 and sizes["backbone.bottom_up.res3.0.conv1.weight"] > 0
    for name, size in sizes.items():
        if name.startswith(("ins_head", "mask_head")):
            assert (size > 0) == name.startswith("ins_head.kernel"), name


def test_equi_loss_reaches_queries_and_features(model: Any) -> None:
    sizes = gradient_sizes(model, train_step(model, two_scenes())[0]["loss_equi"])
    assert all(size > 0 for name, size in sizes.items() if name.startswith(("ins_head.kernel", "mask_head")))
    assert all(size == 0 for name, size in sizes.items() if name.startswith("ins_head.cate"))


def test_switched_off_is_solov2(base: Any) -> None:
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


@pytest.mark.parametrize("target,terms", [("feature", {"loss_equi"}), ("augmentation", set())])
def test_equivariance_targets(target: str, terms: set[str]) -> None:
    model = small_model(IUQ, *SMALL, "MODEL.IUQ.EQUI.TARGET", target, "MODEL.IUQ.INTER.ENABLED", "False")
    losses, _ = train_step(model, two_scenes())
    assert set(losses) - {"loss_ins", "loss_cate"} == terms
    assert all(torch.isfinite(loss) for loss in losses.values())
