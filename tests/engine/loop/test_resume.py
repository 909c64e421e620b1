"""A killed run that is resumed is the unbroken run."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from adet_iuq.errors import UserError
from helpers.toy_segmenter import metrics, toy_args, toy_options, train

_KILLED_RUN = (
    "import sys; from helpers.toy_segmenter import toy_args, train; a = toy_args('x'); a.opts = sys.argv[1:]; train(a)"
)


def test_a_killed_and_resumed_run_repeats_the_unbroken_one(tmp_path: Path) -> None:
    # An evaluation between the checkpoint and the kill draws random numbers that the resumed run never draws.
    options: dict[str, Any] = {"DATALOADER__NUM_WORKERS": 2, "TEST__EVAL_PERIOD": 5}
    train(toy_args(tmp_path / "unbroken", **options))

    command = [sys.executable, "-c", _KILLED_RUN, *toy_options(tmp_path / "killed", **options)]
    environment = {**os.environ, "TOY_KILL_AT": "8", "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "killed" / "last_checkpoint").read_text() == "model_0000004.pth"
    assert max(metrics(tmp_path / "killed")) == 7
    train(toy_args(tmp_path / "killed", resume=True, **options))

    assert metrics(tmp_path / "killed") == metrics(tmp_path / "unbroken")
    assert len({line["total_loss"] for i, line in metrics(tmp_path / "killed").items() if i < 12}) > 8
    ends = [torch.load(tmp_path / name / "model_final.pth") for name in ("killed", "unbroken")]
    for name, tensor in ends[0]["model"].items():
        assert torch.equal(tensor, ends[1]["model"][name]), name
    assert torch.equal(ends[0]["trainer"]["iuq"]["memory"], ends[1]["trainer"]["iuq"]["memory"])


def test_a_drawn_seed_is_kept_in_the_checkpoint(tmp_path: Path) -> None:
    options: dict[str, Any] = {"SEED": -1, "DATASETS__TEST": "()"}
    train(toy_args(tmp_path, **options))
    unbroken = metrics(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    train(toy_args(tmp_path, resume=True, **options))
    assert metrics(tmp_path) == unbroken


def test_resuming_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    train(toy_args(tmp_path, resume=True, SOLVER__MAX_ITER=2))
    assert sorted(metrics(tmp_path)) == [0, 1, 2]


def test_a_finished_run_is_only_evaluated_again(tmp_path: Path) -> None:
    train(toy_args(tmp_path, SOLVER__MAX_ITER=3))
    before = metrics(tmp_path)
    results = train(toy_args(tmp_path, resume=True, SOLVER__MAX_ITER=3))
    assert "segm" in results
    assert metrics(tmp_path) == before


def test_a_new_run_sets_the_metrics_of_the_old_one_aside(tmp_path: Path) -> None:
    train(toy_args(tmp_path, SOLVER__MAX_ITER=3))
    old = (tmp_path / "metrics.json").read_text()
    train(toy_args(tmp_path, SOLVER__MAX_ITER=2))
    assert (tmp_path / "metrics.1.json").read_text() == old
    assert sorted(metrics(tmp_path)) == [0, 1, 2]


def test_weights_without_trainer_state_cannot_be_resumed(tmp_path: Path) -> None:
    train(toy_args(tmp_path, SOLVER__MAX_ITER=2))
    weights = torch.load(tmp_path / "model_final.pth")["model"]
    torch.save({"model": weights}, tmp_path / "model_final.pth")
    with pytest.raises(UserError, match="no state of a trainer"):
        train(toy_args(tmp_path, resume=True, SOLVER__MAX_ITER=4))
