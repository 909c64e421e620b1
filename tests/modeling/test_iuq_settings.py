"""From keys to settings: shares of the schedule, and what lambda counts."""

import pytest

from adet_iuq.config import get_cfg
from adet_iuq.errors import UserError
from adet_iuq.modeling.iuq_settings import equi_settings, inter_settings
from helpers.grid_checks import grid_options
from helpers.scenes import mask2former_model, small_model


@pytest.mark.parametrize(
    "keys,expected",
    [
        ({}, (20, 20)),
        ({"START_SHARE": 0.2}, (80, 20)),
        ({"RAMP_SHARE": 0.0}, (20, 0)),
        ({"START_ITER": 0}, (0, 20)),  # from the first iteration on
        ({"START_ITER": 7, "RAMP_ITERS": 3, "START_SHARE": 0.5, "RAMP_SHARE": 0.5}, (7, 3)),
        ({"RAMP_ITERS": 0}, (20, 0)),
    ],
)
def test_start_and_ramp_are_shares_unless_iterations_are_named(
    keys: dict[str, float], expected: tuple[int, int]
) -> None:
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER = 400
    for name, value in keys.items():
        cfg.MODEL.IUQ.INTER[name] = value
    inter = inter_settings(cfg)
    assert (inter.start_iter, inter.ramp_iters) == expected
    assert isinstance(inter.start_iter, int) and isinstance(inter.ramp_iters, int)


@pytest.mark.parametrize("share", [-0.1, 1.5])
@pytest.mark.parametrize("name", ["START_SHARE", "RAMP_SHARE"])
def test_a_share_that_is_none_is_refused(name: str, share: float) -> None:
    cfg = get_cfg()
    cfg.MODEL.IUQ.INTER[name] = share
    with pytest.raises(UserError, match=rf"MODEL\.IUQ\.INTER\.{name} is {share}"):
        inter_settings(cfg)


def test_lambda_counts_the_base_weight_unless_told_otherwise() -> None:
    cfg = get_cfg()
    cfg.MODEL.IUQ.EQUI.WEIGHT = 2.0
    assert equi_settings(cfg, 3.0).weight == 6.0
    cfg.MODEL.IUQ.EQUI.TARGET = "feature"  # no mask loss
    assert equi_settings(cfg, 3.0).weight == 2.0
    cfg.MODEL.IUQ.EQUI.TARGET, cfg.MODEL.IUQ.EQUI.RELATIVE_TO_BASE = "query", False
    assert equi_settings(cfg, 3.0).weight == 2.0


RELATIVE = ("MODEL.IUQ.EQUI.RELATIVE_TO_BASE", "True")


@pytest.mark.parametrize("recipe,section", [("SOLOv2/R50_1x_iuq.yaml", "SOLOV2"), ("SOTR/R50_iuq.yaml", "SOTR")])
def test_grid_segmenters_leave_a_weight_of_3_out(recipe: str, section: str) -> None:
    lambdas = [
        small_model(recipe, *grid_options(section), *options).iuq_criterion.equi.weight for options in ((), RELATIVE)
    ]
    assert lambdas == [3.0, 9.0]


def test_condinst_leaves_out_the_weight_that_the_config_gives() -> None:
    model = small_model("CondInst/R50_1x_iuq.yaml", *RELATIVE, "MODEL.CONDINST.LOSS_WEIGHT_MASK", "2.0")
    assert model.iuq_criterion.equi.weight == 6.0


def test_the_others_leave_nothing_out() -> None:
    assert small_model("CondInst/R50_1x_iuq.yaml", *RELATIVE).iuq_criterion.equi.weight == 3.0
    assert mask2former_model("Mask2Former/R50_50ep_iuq.yaml", *RELATIVE).iuq_criterion.equi.weight == 3.0
