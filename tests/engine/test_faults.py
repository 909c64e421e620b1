"""What clusters do to a training, on one process: each fault ends as documented, and the run then resumes exactly."""

import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adet_iuq.engine import Trainer, launch, setup
from adet_iuq.engine.launching.launch import argument_parser
from adet_iuq.errors import TrainingInterrupted, UserError
from helpers.faults import AtStep, limit_files
from helpers.toy_segmenter import metrics, toy_args, toy_options, train

NO_TEST: dict[str, Any] = {"DATASETS__TEST": "()"}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """The metrics of a run that nothing happens to."""
    output = tmp_path_factory.mktemp("unbroken")
    train(toy_args(output, **NO_TEST))
    found = metrics(output)
    assert sorted(found) == list(range(12))
    return found


def train_with(output: Path, iteration: int, action: Callable[[Any], object], **options: Any) -> None:
    """A run of the toy in which something happens at an iteration."""
    trainer = Trainer(setup(toy_args(output, **NO_TEST, **options)))
    trainer.register_hooks([AtStep(iteration, action)])
    trainer.resume_or_load(resume=False)
    trainer.train()


def resume(output: Path, **options: Any) -> dict[int, dict[str, Any]]:
    train(toy_args(output, resume=True, **NO_TEST, **options))
    return metrics(output)


def last(output: Path) -> str:
    return (output / "last_checkpoint").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_stops_after_the_step_with_a_checkpoint(
    tmp_path: Path, unbroken: dict, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted, match=f"Stopped by {number.name} after iteration 8 of 12"):
        train_with(tmp_path, 7, lambda trainer: os.kill(os.getpid(), number))
    assert last(tmp_path) == "model_0000007.pth"
    assert signal.getsignal(number) == before
    assert resume(tmp_path) == unbroken


def test_a_signal_in_the_last_step_skips_the_evaluation_only(tmp_path: Path, unbroken: dict) -> None:
    with pytest.raises(TrainingInterrupted, match="after iteration 12 of 12"):
        train_with(tmp_path, 11, lambda trainer: os.kill(os.getpid(), signal.SIGTERM))
    assert last(tmp_path) == "model_final.pth"
    assert resume(tmp_path) == unbroken


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_evaluation_comes_between_a_signal_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The signal comes in a step after which an evaluation is due: a scheduler would kill the run amid it."""

    def evaluate(*_: Any) -> None:
        raise AssertionError("the evaluation has begun")

    monkeypatch.setattr(Trainer, "test", evaluate)
    trainer = Trainer(setup(toy_args(tmp_path, TEST__EVAL_PERIOD=8)))
    trainer.register_hooks([AtStep(7, lambda _: os.kill(os.getpid(), number))])
    with pytest.raises(TrainingInterrupted, match="after iteration 8 of 12, which is saved"):
        trainer.train()
    assert last(tmp_path) == "model_0000007.pth"


def interrupted(_: Any) -> None:
    """A main that is told to stop before it trains."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_before_the_training_ends_with_75_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        launch(interrupted, argument_parser().parse_args([]))
    assert exit_.value.code == 75
    assert "Stopped by SIGTERM" in capsys.readouterr().err


@pytest.fixture
def file_limit() -> Iterator[None]:
    """Whatever limit the test sets is lifted after it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("file_limit")
def test_a_full_disk_spoils_no_checkpoint(tmp_path: Path, unbroken: dict) -> None:
    def fill(trainer: Any) -> None:
        limit_files((tmp_path / "model_0000004.pth").stat().st_size // 2)

    with pytest.raises(UserError, match=r"model_0000009\.pth cannot be written: File too large.*--resume"):
        train_with(tmp_path, 7, fill)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert last(tmp_path) == "model_0000004.pth"
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "model_0000009.pth").exists()
    assert resume(tmp_path) == unbroken


@pytest.mark.usefixtures("file_limit")
def test_metrics_that_cannot_be_written_stop_the_run_with_a_checkpoint(
    tmp_path: Path, unbroken: dict, capfd: pytest.CaptureFixture[str]
) -> None:
    """The disk is full for one step: the next one stops the run, and nothing computed is lost."""

    def fill(trainer: Any) -> None:
        limit_files((tmp_path / "metrics.json").stat().st_size)
        trainer.register_hooks([AtStep(8, lambda _: limit_files(resource.RLIM_INFINITY))])

    with pytest.raises(UserError, match=r"metrics\.json cannot be written: File too large.*after iteration 9 of 12"):
        train_with(tmp_path, 7, fill)
    assert last(tmp_path) == "model_0000008.pth"
    assert "Logging error" not in capfd.readouterr().err
    assert resume(tmp_path) == unbroken


@pytest.mark.usefixtures("file_limit")
def test_when_nothing_can_be_written_the_last_checkpoint_serves(tmp_path: Path, unbroken: dict) -> None:
    with pytest.raises(UserError, match="cannot be written: File too large"):
        train_with(tmp_path, 7, lambda trainer: limit_files(16))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert last(tmp_path) == "model_0000004.pth"
    assert resume(tmp_path) == unbroken


def test_a_truncated_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, unbroken: dict, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TrainingInterrupted):
        train_with(tmp_path, 10, lambda trainer: os.kill(os.getpid(), signal.SIGTERM))
    assert last(tmp_path) == "model_0000010.pth"
    for name in ("model_0000010.pth", "model_0000009.pth"):
        os.truncate(tmp_path / name, (tmp_path / name).stat().st_size // 2)
    with caplog.at_level(logging.WARNING, logger="adet_iuq.checkpoint.resume"):
        assert resume(tmp_path) == unbroken
    warning = next(record.message for record in caplog.records if "DAMAGED" in record.message)
    assert "model_0000010.pth" in warning and "model_0000004.pth" in warning


def test_without_a_sound_checkpoint_nothing_starts(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        train_with(tmp_path, 2, lambda trainer: os.kill(os.getpid(), signal.SIGTERM))
    os.truncate(tmp_path / "model_0000002.pth", 1000)
    with pytest.raises(UserError, match=r"model_0000002\.pth .*No earlier checkpoint"):
        resume(tmp_path)


def test_a_damaged_image_is_named_and_skipped_on_request(tmp_path: Path) -> None:
    options: dict[str, Any] = {"DATASETS__SHAPES__ROOT": tmp_path / "shapes", "DATALOADER__NUM_WORKERS": 2}
    train(toy_args(tmp_path / "whole", **NO_TEST, **options, SOLVER__MAX_ITER=1))
    image = next(path for path in sorted((tmp_path / "shapes").rglob("*.png")) if "train" in str(path))
    os.truncate(image, 60)
    with pytest.raises(UserError, match="cannot be read") as error:
        train(toy_args(tmp_path / "output", **NO_TEST, **options))
    assert image.name in str(error.value)
    train(toy_args(tmp_path / "output", **NO_TEST, **options, GUARD__SKIP_CORRUPT_IMAGES=1))
    assert len(metrics(tmp_path / "output")) == 12


def test_nan_stops_and_the_run_resumes(tmp_path: Path, unbroken: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_NAN_AT", "7")
    with pytest.raises(UserError, match="loss_mask = nan on rank 0"):
        train(toy_args(tmp_path, **NO_TEST))
    monkeypatch.delenv("TOY_NAN_AT")
    assert resume(tmp_path) == unbroken


def test_a_worker_that_dies_names_its_sample(tmp_path: Path, unbroken: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    import adet_iuq.data.loading.mapper as mapper

    read, parent = mapper.read_record, os.getpid()

    def deadly(record: dict[str, Any], *how: str) -> Any:
        if record["sample_index"] == 17:
            Path(tmp_path / "victim").write_text(record["file_name"])
            assert os.getpid() != parent
            os.kill(os.getpid(), signal.SIGKILL)
        return read(record, *how)

    monkeypatch.setattr(mapper, "read_record", deadly)
    with pytest.raises(UserError, match="A data worker died while reading") as error:
        train(toy_args(tmp_path / "output", **NO_TEST, DATALOADER__NUM_WORKERS=2))
    assert (tmp_path / "victim").read_text() in str(error.value) and "NUM_WORKERS" in str(error.value)
    assert str(error.value).count(".png") == 1  # and not what the other one was reading
    monkeypatch.setattr(mapper, "read_record", read)
    assert resume(tmp_path / "output") == unbroken


def test_workers_outlive_a_schedulers_signals(tmp_path: Path, unbroken: dict) -> None:
    """SLURM signals all processes of a job: the training still finishes its step, and its workers end with it."""

    def signal_all(trainer: Any) -> None:
        workers = [int(pid) for pid in children_of(os.getpid())]
        assert len(workers) >= 2
        for number in (signal.SIGTERM, signal.SIGUSR1):
            for pid in (*workers, os.getpid()):
                os.kill(pid, number) if pid == os.getpid() else subprocess.run(["kill", f"-{number.value}", str(pid)])
        trainer.workers = workers

    with pytest.raises(TrainingInterrupted, match="after iteration 4 of 12"):
        train_with(tmp_path, 3, signal_all, DATALOADER__NUM_WORKERS=2)
    assert resume(tmp_path) == unbroken


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_the_program_itself_exits_with_75(tmp_path: Path) -> None:
    script = (
        "import sys, os, signal, argparse\n"
        "from adet_iuq.engine import Trainer, setup, launch\n"
        "from helpers.faults import AtStep\n"
        "from helpers.toy_segmenter import toy_args\n"
        "def main(args):\n"
        "    trainer = Trainer(setup(args))\n"
        "    trainer.register_hooks([AtStep(3, lambda _: os.kill(os.getpid(), signal.SIGTERM))])\n"
        "    trainer.train()\n"
        "args = toy_args('x'); args.opts = sys.argv[1:]\n"
        "launch(main, args)\n"
    )
    command = [sys.executable, "-c", script, *toy_options(tmp_path, **NO_TEST)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 75, done.stderr
    assert "Stopped by SIGTERM after iteration 4 of 12" in done.stderr and "Traceback" not in done.stderr
    assert last(tmp_path) == "model_0000003.pth"
