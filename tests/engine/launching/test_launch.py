"""Real processes that talk over gloo."""

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from adet_iuq.engine import argument_parser, launch, setup
from adet_iuq.engine.launching.processes import run_processes
from adet_iuq.errors import UserError
from helpers.toy_segmenter import toy_args, train

FOUR_STEPS: dict[str, Any] = {"SOLVER__MAX_ITER": 4, "SOLVER__CHECKPOINT_PERIOD": 2, "DATASETS__TEST": "()"}


def describe_and_train(args: argparse.Namespace) -> None:
    """Runs in every process: writes what the rank sees, trains, and resumes the training from the middle."""
    folder = Path(args.opts[0])
    ranks = comm.all_gather(comm.get_rank())
    content = [comm.get_world_size(), comm.get_local_rank(), comm.get_local_size(), ranks, dist.get_backend()]
    (folder / f"{comm.get_rank()}.json").write_text(json.dumps(content))
    train(toy_args(folder, **FOUR_STEPS))
    if comm.is_main_process():
        shutil.copy(folder / "metrics.json", folder / "unbroken.json")
        (folder / "last_checkpoint").write_text("model_0000001.pth")
    comm.synchronize()
    train(toy_args(folder, resume=True, **FOUR_STEPS))


def fail(args: argparse.Namespace) -> None:
    """All ranks meet the same error."""
    raise UserError("the sky is falling")


def leave_or_fail(rank: int, file: str, code: int) -> None:
    """Rank 0 leaves at once; rank 1 when the launcher has taken note of that, for then there is no such process any more."""
    if rank == 0:
        Path(file).write_text(str(os.getpid()))
        sys.exit(code)
    while not (Path(file).exists() and Path(file).read_text()):
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(int(Path(file).read_text()), 0)
            time.sleep(0.1)
    sys.exit(code)


def set_up(args: argparse.Namespace) -> None:
    """The start of a run in the folder that the arguments name."""
    setup(toy_args(Path(args.opts[0])))


def arguments(*words: str) -> argparse.Namespace:
    return argument_parser().parse_args(list(words))


def losses(path: Path) -> list[float]:
    return [json.loads(line)["total_loss"] for line in path.read_text().splitlines()]


def test_cpu_processes_form_one_group_that_trains_and_resumes(tmp_path: Path) -> None:
    launch(describe_and_train, arguments("--num-gpus", "2", str(tmp_path)))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [2, rank, 2, [0, 1], "gloo"]
    unbroken = losses(tmp_path / "unbroken.json")
    assert len(unbroken) == 4 and losses(tmp_path / "metrics.json") == unbroken
    states = torch.load(tmp_path / "model_final.pth")["trainer"]["random_states"]
    assert not torch.equal(states[0]["torch"], states[1]["torch"])


def test_an_error_in_a_process_becomes_the_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        launch(fail, arguments("--num-gpus", "2"))
    assert exit_.value.code == 2
    printed = capfd.readouterr().err
    assert printed.count("Error: the sky is falling") == 1
    assert "Traceback" not in printed


@pytest.mark.slow
def test_an_unwritable_folder_is_one_message_on_every_rank(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_:
        launch(set_up, arguments("--num-gpus", "2", str(tmp_path / "file" / "output")))
    assert exit_.value.code == 2
    printed = capfd.readouterr().err
    assert printed.count("cannot be written: Not a directory") == 1
    assert "Traceback" not in printed


def test_a_time_out_of_nothing_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        launch(fail, arguments("--num-gpus", "2", "DIST.TIMEOUT_MINUTES", "0"))
    assert exit_.value.code == 2
    assert "DIST.TIMEOUT_MINUTES is 0" in capfd.readouterr().err


def test_an_error_of_a_single_process_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        launch(fail, arguments())
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "Error: the sky is falling\n"


def test_several_machines_need_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch(describe_and_train, arguments("--num-machines", "2"))
    assert "--dist-url" in capsys.readouterr().err


def test_torchruns_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[argparse.Namespace] = []
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    launch(called.append, arguments("--num-gpus", "4"))
    assert len(called) == 1


@pytest.mark.parametrize("code", [75, pytest.param(130, marks=pytest.mark.slow)])
def test_one_interrupted_process_makes_an_interruption_of_it(
    tmp_path: Path, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Signalled alone, during an evaluation, it leaves; another one that loses contact to it then fails."""
    file = str(tmp_path / "pid")
    assert run_processes(leave_or_fail, [(0, file, code), (1, file, 1)], 0) == code
    assert "failed with exit code" not in capfd.readouterr().err
