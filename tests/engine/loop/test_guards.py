import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from detectron2.utils.events import EventStorage

from adet_iuq.engine.loop.guards import CollapseGuard, NonFiniteLossError, stop_on_nonfinite
from helpers.toy_segmenter import toy_args, train


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
    steps: list[dict[str, float]], caplog: pytest.LogCaptureFixture, patience: int = 3, **of_model: Any
) -> int:
    """How often the guard warns when these are the scalars of the steps."""
    guard = CollapseGuard(patience, **of_model)
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
    for key in ("MODEL.IUQ.INTER.WEIGHT", "MODEL.IUQ.INTER.RAMP_ITERS", "START_ITER", "SOLVER.BASE_LR"):
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


def test_the_model_names_the_loss_that_has_a_ceiling(caplog: pytest.LogCaptureFixture) -> None:
    dice = {**COLLAPSED, "loss_mask": 0.1, "loss_dice": 4.99}
    assert warnings_of([dice] * 4, caplog, ceiling=5.0, name="loss_dice") == 1
    assert warnings_of([{**dice, "loss_dice": 4.0}] * 4, caplog, ceiling=5.0, name="loss_dice") == 1  # none more
