"""Ctrl-C in a terminal, which reaches every process of a run: launcher, ranks and data workers.

All of it with real programs: a run that is interrupted ends with 130 and without a traceback, and the command that it
prints goes on to the losses of a run that nothing happens to.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from adet_iuq.errors import TrainingInterrupted
from adet_iuq.reporting.process import ReportProcess
from helpers import toy_run
from helpers.golden import REPOSITORY
from helpers.toy_segmenter import ToySegmenter, metrics, toy_args, toy_options, train

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups")

TOY: dict[str, Any] = {"DATASETS__TEST": "()", "DATALOADER__NUM_WORKERS": 2}
SECONDS = 280  # for any program


def start(output: Path, *flags: str, starter: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[str]:
    """A training of the toy in a process group of its own, as a shell starts it."""
    words = [sys.executable, *starter, toy_run.__file__, *flags, *toy_options(output, **TOY)]
    return start_words(words, **variables)


def start_words(words: list[str], **variables: str) -> subprocess.Popen[str]:
    paths = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"
    return subprocess.Popen(
        words, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever runs the tests may ignore it
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output; whatever of it still runs is killed."""
    try:
        output = process.communicate(timeout=SECONDS)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


@pytest.fixture(scope="module", params=["1", pytest.param("2", marks=pytest.mark.slow)])
def processes(request: pytest.FixtureRequest) -> str:
    """--num-gpus, which counts CPU processes here."""
    return str(request.param)


@pytest.fixture(scope="module")
def unbroken(processes: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """The losses of a run that nothing happens to."""
    output = tmp_path_factory.mktemp("unbroken")
    code, said = finish(start(output, "--num-gpus", processes))
    assert code == 0, said
    assert sorted(metrics(output)) == list(range(12))
    return metrics(output)


def test_the_step_in_hand_is_saved_and_the_printed_command_goes_on(
    tmp_path: Path, processes: str, unbroken: dict[int, dict[str, Any]]
) -> None:
    code, said = finish(start(tmp_path, "--num-gpus", processes, FAULT="ctrl_c:0:6"))
    assert code == 130, said
    assert "Traceback" not in said and said.count("Once more ends it at once") == 1, said
    (line,) = [line for line in said.splitlines() if "Stopped by Ctrl-C" in line]
    done, command = re.fullmatch(r".*after iteration (\d+) of 12, which is saved\. .*To go on: (.*)", line).groups()  # type: ignore[union-attr]
    assert int(done) in (7, 8)  # the ranks may have agreed on this step before the signal came
    assert (tmp_path / "last_checkpoint").read_text() == f"model_{int(done) - 1:07d}.pth"
    code, said = finish(start_words(shlex.split(command)))
    assert code == 0 and f"Resuming at iteration {done} of 12" in said, said
    assert metrics(tmp_path) == unbroken


def test_the_second_one_ends_at_once(tmp_path: Path, processes: str) -> None:
    begin = time.monotonic()
    code, said = finish(start(tmp_path, "--num-gpus", processes, FAULT="ctrl_c_twice:0:6"))
    assert code == 130 and "Traceback" not in said, said
    assert "Ended at once; what had been saved before is untouched" in said and "Stopped by" not in said
    assert time.monotonic() - begin < SECONDS and (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert not list(tmp_path.glob(".*"))


def test_before_the_training_it_ends_at_once(tmp_path: Path, processes: str) -> None:
    code, said = finish(start(tmp_path, "--num-gpus", processes, PRESS_BEFORE=str(int(processes) - 1)))
    assert code == 130 and "Traceback" not in said, said
    (line,) = [line for line in said.splitlines() if "Ctrl-C" in line]  # Python has warnings of its own
    assert "Stopped by Ctrl-C outside of the training steps, where nothing is lost" in line and "--resume" not in line


def test_processes_that_are_just_starting_end_without_a_traceback(tmp_path: Path) -> None:
    """Amid their imports, where Python itself would print one."""
    process = start(tmp_path, "--num-gpus", "2")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 3:  # multiprocessing's resource tracker is one of them
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    code, said = finish(process)
    assert code == 130 and "Traceback" not in said and said.count("Stopped by Ctrl-C") == 1, said


@pytest.mark.slow
def test_under_detectron2s_launcher(tmp_path: Path) -> None:
    """It spawns and ends processes in its own way; a stand-in does so without GPUs."""
    code, said = finish(start(tmp_path, "--num-gpus", "2", FAULT="ctrl_c:1:6", SPAWN="1"))
    assert code == 130 and "Traceback" not in said, said
    assert said.count("Stopped by Ctrl-C after iteration") == 1 and (tmp_path / "last_checkpoint").is_file()


@pytest.mark.slow
def test_under_torchrun_all_is_saved_too(tmp_path: Path) -> None:
    """Which itself ends with a traceback of its own and 1, whatever its processes do."""
    whole, output = tmp_path / "whole", tmp_path / "output"
    starter = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517")
    assert finish(start(whole, starter=starter))[0] == 0
    process = start(output, starter=starter, FAULT="pause:0:6")
    while not (output / "paused").exists():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, said = finish(process)
    assert said.count("Stopped by Ctrl-C after iteration") == 1, said
    assert "To go on: start it again, with --resume" in said
    ours = said.split("SignalException")[0].split("Traceback")
    assert len(ours) <= 2 and "adet_iuq" not in ours[-1].split("Stopped by")[-1]
    assert finish(start(output, "--resume", starter=starter))[0] == 0
    assert metrics(output) == metrics(whole)


def test_a_periodic_evaluation_ends_at_once_if_all_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingInterrupted, match="evaluation after iteration 5 of 12, which is saved") as end:
        press_in_evaluation(tmp_path, monkeypatch, TEST__EVAL_PERIOD=5)
    assert end.value.exit_code == 130 and end.value.resumes
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert sorted(metrics(tmp_path)) == [0, 1, 2, 3]


def test_a_periodic_evaluation_is_finished_if_steps_would_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingInterrupted, match="after iteration 5 of 12, which is saved"):
        press_in_evaluation(tmp_path, monkeypatch, TEST__EVAL_PERIOD=4)
    assert "after this evaluation the iterations that are not saved yet are" in capfd.readouterr().err
    assert "segm/AP" in metrics(tmp_path)[3]


def test_the_last_evaluation_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingInterrupted, match="during the last evaluation; all iterations are saved") as end:
        press_in_evaluation(tmp_path, monkeypatch)
    assert end.value.exit_code == 130 and (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_the_wait_for_the_last_report_ends_at_once_and_the_run_is_not_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReportProcess, "start", lambda self, *, beside: None)
    monkeypatch.setattr(ReportProcess, "finish", lambda self: os.kill(os.getpid(), signal.SIGINT))
    options: dict[str, Any] = {"DATASETS__TEST": "()", "REPORT__ENABLED": True, "REPORT__LABEL_GRID": 0}
    with pytest.raises(TrainingInterrupted, match="after the last iteration; all iterations are saved") as end:
        train(toy_args(tmp_path, **options))
    assert end.value.exit_code == 130 and end.value.resumes


def press_in_evaluation(output: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Trains the toy; Ctrl-C comes with the first image that is evaluated."""
    infer = ToySegmenter.inference
    pressed: list[bool] = []

    def press(self: ToySegmenter, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not pressed:
            pressed.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return infer(self, inputs)

    monkeypatch.setattr(ToySegmenter, "inference", press)
    train(toy_args(output, **options))
