"""SOLOv2IUQ: who gets a gradient from the two losses that it adds."""

from typing import Any

import pytest

from helpers.grid_checks import CASES, gradient_sizes, train_step, two_scenes


@pytest.fixture(scope="module")
def model() -> Any:
    return CASES["solov2"].model("SOLOv2/R50_1x_iuq.yaml")


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
