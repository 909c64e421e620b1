import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from adet_iuq.engine.loop.guards import CollapseGuard, NonFiniteLossError, stop_on_nonfinite
from adet_iuq.modeling import Segmenter
from adet_iuq.modeling.condinst import CondInst
from adet_iuq.modeling.mask2former import MaskFormer
from adet_iuq.modeling.sotr import SOTR
from helpers.grid_checks import CASES as GRIDS
from helpers.grid_checks import SMALL_SOLOV2
from helpers.scenes import discs, mask2former_model, small_model
from helpers.toy_segmenter import BareSegmenter, toy_args, train


def test_a_nonfinite_loss_stops_before_anything_is_spoiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_NAN_AT", "7")
    with pytest.raises(NonFiniteLossError) as error:
        train(toy_args(tmp_path))
    message = str(error.value)
    assert "loss_mask = nan on rank 0" in message and "loss_cls" not in message
    assert "iteration 7" in message
    assert message.count("annotations.json") == 0 and message.count(".png") == 2
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_every_kind_of_nonfinite_is_seen(value: float) -> None:
    losses = {"loss_a": 1.0, "loss_b": value}
    with pytest.raises(NonFiniteLossError, match=r"loss_b = .* with the images one\.png"):
        stop_on_nonfinite(losses, losses, [{"file_name": "one.png"}], 3)


def test_finite_losses_pass() -> None:
    stop_on_nonfinite({"loss_a": 1e30}, {"loss_a": 1e30}, [], 3)


def warnings_of(
    steps: list[dict[str, float]],
    caplog: pytest.LogCaptureFixture,
    patience: int = 3,
    model: Segmenter | None = None,
) -> int:
    """How often the guard of a model (with the defaults of `Segmenter`, if none is given) warns at these scalars."""
    guard = CollapseGuard(patience, model or BareSegmenter())
    with EventStorage() as storage, caplog.at_level(logging.WARNING, logger="adet_iuq.engine.loop.guards"):
        guard.trainer = SimpleNamespace(storage=storage)
        for iteration, scalars in enumerate(steps):
            storage.iter = iteration
            for name, value in scalars.items():
                storage.put_scalar(name, value)
            guard.after_step()
    return sum("collapsed" in record.message for record in caplog.records)


COLLAPSED = {"loss_mask": 0.995, "iuq/num_valid_pairs": 10.0, "iuq/fire_rate": 0.0, "iuq/own_fire_rate": 0.0}


def test_collapse_warns_once_and_says_what_to_change(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of([COLLAPSED] * 10, caplog) == 1
    for key in ("INTER.WEIGHT", "INTER.RAMP_SHARE", "INTER.START_SHARE", "RAMP_ITERS", "START_ITER", "SOLVER.BASE_LR"):
        assert key in caplog.text


def test_a_new_episode_warns_again(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of([COLLAPSED] * 4 + [{**COLLAPSED, "loss_mask": 0.5}] + [COLLAPSED] * 4, caplog) == 2


@pytest.mark.parametrize(
    "alive",
    [
        {"loss_mask": 0.9},
        {"iuq/fire_rate": 0.01},
        {"iuq/own_fire_rate": 0.01},
        {"iuq/equi_fire_rate": 0.1},
        {"iuq/num_valid_pairs": 0.0},  # before START_ITER nothing is known about firing
    ],
)
def test_signs_of_life_keep_the_guard_quiet(alive: dict[str, float], caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of([{**COLLAPSED, **alive}] * 10, caplog) == 0


def test_two_bad_steps_are_not_enough_and_zero_patience_is_off(caplog: pytest.LogCaptureFixture) -> None:
    good = {**COLLAPSED, "loss_mask": 0.5}
    assert warnings_of([COLLAPSED, COLLAPSED, good] * 4, caplog) == 0
    assert warnings_of([COLLAPSED] * 10, caplog, patience=0) == 0


def test_the_model_names_the_loss_its_ceiling_and_the_share_of_it(caplog: pytest.LogCaptureFixture) -> None:
    model = BareSegmenter()
    model.mask_loss_name, model.mask_loss_ceiling, model.mask_loss_collapsed = "loss_dice", 5.0, 0.8
    dice = {**COLLAPSED, "loss_mask": 0.1, "loss_dice": 4.01}
    assert warnings_of([{**dice, "loss_dice": 3.99}] * 4, caplog, model=model) == 0
    assert warnings_of([dice] * 4, caplog, model=model) == 1 and "loss_dice has been at least 4" in caplog.text


def test_before_the_inter_scene_term_starts_empty_masks_are_young(caplog: pytest.LogCaptureFixture) -> None:
    silent = {**COLLAPSED, "iuq/num_valid_pairs": 0.0, "iuq/equi_fire_rate": 0.0}
    assert warnings_of([silent] * 4, caplog) == 0
    del silent["iuq/num_valid_pairs"]  # without that term the other one's rate is the evidence
    assert warnings_of([silent] * 4, caplog) == 1


AT_ONCE = (
    "MODEL.IUQ.INTER.START_ITER", "0", "MODEL.IUQ.INTER.RAMP_ITERS", "0", "MODEL.IUQ.INTER.NEG_WEIGHT", "0.9",
    "MODEL.IUQ.INTER.NORMALIZER", "image", "MODEL.IUQ.INTER.WEIGHT", "1.0",
)  # fmt: skip
LEARNING = ("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.RESNETS.STRIDE_IN_1X1", "False")
NARROW_CONDINST = (
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.CONDINST.MASK_BRANCH.CHANNELS", "32",
    "MODEL.FCOS.NUM_CLS_CONVS", "1", "MODEL.FCOS.NUM_BOX_CONVS", "1",
)  # fmt: skip
RATES = ("iuq/fire_rate", "iuq/own_fire_rate", "iuq/equi_fire_rate")
SILENT = -20.0  # logit of every pixel


def condinst(*overrides: str) -> Any:
    return small_model("CondInst/R50_1x_iuq.yaml", *NARROW_CONDINST, *AT_ONCE, *overrides)


def solov2(*overrides: str) -> Any:
    return small_model("SOLOv2/R50_1x_iuq.yaml", *SMALL_SOLOV2, *AT_ONCE, *overrides)


def sotr() -> Any:
    return GRIDS["sotr"].model("SOTR/R50_iuq.yaml", *AT_ONCE)


def mask2former() -> Any:
    return mask2former_model("Mask2Former/R50_50ep_iuq.yaml", *AT_ONCE)


def constant(layer: nn.Module, value: float) -> None:
    """Makes a layer's output `value` in every channel, whatever goes in."""
    assert isinstance(layer, (nn.Conv2d, nn.Linear, nn.GroupNorm)) and layer.bias is not None
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)


def silence(model: Any) -> None:
    """Makes all masks empty: every logit is SILENT."""
    if isinstance(model, CondInst):
        constant(model.controller, 0.0)
        nn.init.constant_(model.controller.bias[-1:], SILENT)  # the last of a query's numbers is its last layer's bias
        return
    if isinstance(model, MaskFormer):
        head = model.sem_seg_head
        queries, pixels = head.predictor.mask_embed.layers[-1], head.pixel_decoder.mask_features
    else:
        head = model.cate_head if isinstance(model, SOTR) else model.ins_head
        queries, pixels = head.kernel_pred, model.mask_head.conv_pred[1]
    constant(queries, SILENT / model.pixel_dim)
    constant(pixels, 1.0)


def step(model: Any, optimizer: torch.optim.Optimizer | None = None) -> dict[str, float]:
    """What a training step on two images logs."""
    with EventStorage() as storage:
        losses = model.train()([discs(64, 64, 2, seed=seed) for seed in (1, 2)])
        if optimizer is not None:
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
        logged = {name: value for name, (value, _) in storage.latest().items()}
    return logged | {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("build", [condinst, solov2, sotr, mask2former])
def test_a_silent_model_is_seen_and_an_untrained_one_is_not(
    build: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = build()
    assert warnings_of([step(model)] * 4, caplog, model=model) == 0
    silent_model = build()  # with a memory of its own: pixels of the other one are no ones
    silence(silent_model)
    silent = step(silent_model)
    assert silent["iuq/num_valid_pairs"] > 0 and [silent[rate] for rate in RATES] == [0.0, 0.0, 0.0]
    for healthy in ({model.mask_loss_name: 0.3 * model.mask_loss_ceiling}, {"iuq/own_fire_rate": 0.4}):
        assert warnings_of([{**silent, **healthy}] * 4, caplog, model=silent_model) == 0
    assert warnings_of([silent] * 4, caplog, model=silent_model) == 1


@pytest.mark.parametrize("build", [condinst, solov2])
def test_a_trained_model_is_driven_into_collapse_and_seen(
    build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The sum over each image's pixels at full weight is hundreds of times the mean: masks vanish within a few steps."""
    model = build("MODEL.IUQ.EQUI.ENABLED", "False", *LEARNING)
    strong = model.iuq_criterion.inter
    model.iuq_criterion.inter = replace(strong, normalizer="pixel", weight=1e-9)  # measures only
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3)
    learning = [step(model, adam) for _ in range(15)]
    assert learning[-1][model.mask_loss_name] < 0.2 * model.mask_loss_ceiling
    assert learning[-1]["iuq/own_fire_rate"] > 0.2
    assert warnings_of(learning, caplog, model=model) == 0
    model.iuq_criterion.inter = strong
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    assert warnings_of([step(model, sgd) for _ in range(10)], caplog, model=model) == 1
