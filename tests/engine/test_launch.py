"""Real processes that talk over gloo."""

import argparse
import json
from pathlib import Path

import pytest
import torch.distributed as dist
from detectron2.utils import comm
from helpers.toy_segmenter import toy_args, train

from adet_iuq.engine import argument_parser, launch
from adet_iuq.errors import UserError


def describe(args: argparse.Namespace) -> None:
    """Every rank writes what it sees; runs in the processes."""
    ranks = comm.all_gather(comm.get_rank())
    content = [comm.get_world_size(), comm.get_local_rank(), comm.get_local_size(), ranks, dist.get_backend()]
    Path(args.opts[0], f"{comm.get_rank()}.json").write_text(json.dumps(content))


def fail(args: argparse.Namespace) -> None:
    """All ranks meet the same error."""
    raise UserError("the sky is falling")


def arguments(*words: str) -> argparse.Namespace:
    return argument_parser().parse_args(list(words))


def test_cpu_processes_form_one_group(tmp_path: Path) -> None:
    launch(describe, arguments("--num-gpus", "2", str(tmp_path)))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [2, rank, 2, [0, 1], "gloo"]


def test_an_error_in_a_process_becomes_the_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        launch(fail, arguments("--num-gpus", "2"))
    assert exit_.value.code == 2
    printed = capfd.readouterr().err
    assert printed.count("Error: the sky is falling") == 1
    assert "Traceback" not in printed


def test_an_error_of_a_single_process_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        launch(fail, arguments())
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "Error: the sky is falling\n"


def test_several_machines_need_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch(describe, arguments("--num-machines", "2"))
    assert "--dist-url" in capsys.readouterr().err


def test_torchruns_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    launch(called.append, arguments("--num-gpus", "4"))
    assert len(called) == 1


def test_two_processes_train_and_resume(tmp_path: Path) -> None:
    launch(train, toy_args(tmp_path, num_gpus=2, SOLVER__MAX_ITER=6, SOLVER__CHECKPOINT_PERIOD=3))
    whole = [json.loads(line)["total_loss"] for line in (tmp_path / "metrics.json").read_text().splitlines()[:6]]
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    launch(train, toy_args(tmp_path, num_gpus=2, resume=True, SOLVER__MAX_ITER=6, SOLVER__CHECKPOINT_PERIOD=3))
    again = [json.loads(line)["total_loss"] for line in (tmp_path / "metrics.json").read_text().splitlines()[:6]]
    assert again == whole and len(set(whole)) == 6
