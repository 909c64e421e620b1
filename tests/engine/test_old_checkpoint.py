"""A run that revision 13d1029 has left behind goes on under this code as it would have gone on under that one.

What lies in data/old_checkpoint, and how it was made, stands in its README.md.
"""

import argparse
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.engine import Trainer, setup

DATA = Path(__file__).parent / "data" / "old_checkpoint"
CHECKPOINT = "model_0000005.pth"
# Under 13d1029 itself, resumed from this checkpoint on one machine, losses differed relatively from the stored ones by
# nothing with the same two threads, by up to 3e-7 with one thread, and by up to 5e-5 (loss_inter; total_loss 7e-7) with the
# kernels of a CPU that knows SSE4.1 only. The fill of the memory and the fire rates never differed.
TOLERANCE = 1e-4
# What the keys that the run's own config leaves out meant then; and no report, which nobody reads.
OLD_DEFAULTS = (
    *("MODEL.IUQ.INTER.NEG_WEIGHT", "0.9", "MODEL.IUQ.EQUI.WEIGHT", "3.0", "REPORT.ENABLED", "False"),
    *("MODEL.IUQ.EQUI.RELATIVE_TO_BASE", "False"),
)

Losses = dict[str, dict[int, float]]


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """The folder of the run as it was after iteration 5 of 12."""
    with zipfile.ZipFile(DATA / "run.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def continued(folder: Path, *overrides: str, resume: bool = True) -> Losses:
    """Every scalar of the run, unsmoothed, by name and iteration; trains as tools/train_net.py does."""
    args = argparse.Namespace(
        config_file=str(DATA / "config.yaml"),
        opts=["OUTPUT_DIR", str(folder), *OLD_DEFAULTS, *overrides],
        resume=resume,
        eval_only=False,
        num_gpus=1,
        num_machines=1,
        machine_rank=0,
        dist_url="auto",
    )
    trainer = Trainer(setup(args))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    histories = trainer.storage.histories()
    return {name: {when: value for value, when in history.values()} for name, history in histories.items()}


def off_by(losses: Losses) -> dict[str, float]:
    """The largest relative difference to what the old code had in iterations 6 to 11, by name."""
    expected: dict[str, dict[str, float]] = json.loads((DATA / "expected.json").read_text())
    result = {}
    for name, values in expected.items():
        pairs = [(losses[name][int(when)], value) for when, value in values.items()]
        result[name] = max(abs(one - other) / abs(other) for one, other in pairs)
    return result


def test_losses_go_on_as_the_old_code_had_them(old_run: Path) -> None:
    before = (old_run / "metrics.json").read_text()
    differences = off_by(continued(old_run))
    assert (
        len(differences) == 13
    )  # six losses and their sum, five numbers of instance-unique querying, the learning rate
    assert max(differences.values()) <= TOLERANCE, differences
    after = (old_run / "metrics.json").read_text()
    assert after.startswith(before)
    assert [json.loads(line)["iteration"] for line in after.splitlines()] == list(range(12))
    assert (old_run / "last_checkpoint").read_text() == "model_final.pth"


def test_weights_alone_do_not_go_on_like_that(old_run: Path) -> None:
    weights = str(old_run / CHECKPOINT)
    differences = off_by(continued(old_run / "anew", "MODEL.WEIGHTS", weights, resume=False))
    assert differences["total_loss"] > 5 * TOLERANCE
    assert max(differences.values()) > 100 * TOLERANCE


def _forget_momentum(state: dict[str, Any]) -> None:
    state["optimizer"]["state"] = {}


def _forget_moving_positives(state: dict[str, Any]) -> None:
    state["segmenter"]["moving_positives"] *= 1.1


def _forget_memory(state: dict[str, Any]) -> None:
    state["iuq"]["image_ids"].fill_(-1)


def _forget_random_state(state: dict[str, Any]) -> None:
    state["random_states"][0]["torch"] = torch.Generator().manual_seed(0).get_state()


@pytest.mark.parametrize(
    "forget,seen_in",
    [
        (_forget_momentum, "loss_mask"),
        (_forget_moving_positives, "loss_fcos_cls"),
        (_forget_memory, "loss_inter"),
        (_forget_random_state, "loss_mask"),
    ],
)
def test_every_part_of_the_state_is_seen(old_run: Path, forget: Callable[[dict[str, Any]], None], seen_in: str) -> None:
    content = torch.load(old_run / CHECKPOINT)
    forget(content["trainer"])
    torch.save(content, old_run / CHECKPOINT)
    assert off_by(continued(old_run))[seen_in] > TOLERANCE
