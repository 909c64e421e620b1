"""What a person sees of a run, on a terminal and elsewhere."""

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.utils.events import EventStorage
from rich.console import Console

from adet_iuq.engine.console import IN_LOG_ONLY, Display, is_for_people
from adet_iuq.engine.loop.progress import progress_line, results_line
from helpers import toy_run
from helpers.golden import REPOSITORY
from helpers.toy_segmenter import toy_options

pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
Run = Callable[..., str]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def words(output: Path) -> list[str]:
    """A training of the toy with an evaluation in the middle, whose data workers are forked amid all of it."""
    options = {"TEST__EVAL_PERIOD": 6, "DATALOADER__NUM_WORKERS": 1}
    return [sys.executable, toy_run.__file__, *toy_options(output, **options)]


def environment(**more: str) -> dict[str, str]:
    """Of a person at a terminal, not of a test."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "FORCE_COLOR")}
    paths = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"
    return {**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TERM": "xterm", **more}


def on_a_terminal(words: list[str], **variables: str) -> str:
    """What a program writes to a terminal."""
    here, there = pty.openpty()
    process = subprocess.Popen(words, stdin=there, stdout=there, stderr=there, env=environment(**variables))
    os.close(there)
    said = b""
    try:
        while part := os.read(here, 65536):
            said += part
    except OSError:
        pass  # how Linux reports the end
    finally:
        os.close(here)
    assert process.wait(timeout=60) == 0, said.decode()
    return said.decode().replace("\r\n", "\n")


def check_common(said: str, output: Path) -> None:
    """What every kind of output has, and has not."""
    for part in (
        "Training ToySegmenter: 165 parameters, all of them trained",
        "shapes_train (10 images), 9 images used; evaluated on shapes_val (2 images)",
        "cpu, float32, 1 process\n",
        "12 iterations of 2 images",
        str(output),
        "Results on shapes_val",
    ):
        assert part in said
    for part in ("META_ARCHITECTURE", "sys.platform", "Average Precision", "copypaste", "Traceback"):
        assert part not in said
    # The first sign of life comes after little else: what Python itself warns of.
    assert len(said[: said.index("Training ToySegmenter")].splitlines()) < 25
    log = (output / "log.txt").read_text()
    for part in (
        "META_ARCHITECTURE: ToySegmenter",
        "sys.platform",
        "Average Precision",
        "iter: 0  total_loss",
        "copypaste",
    ):
        assert part in log
    assert "iter 1/12 8%" not in log and "\x1b" not in log


def test_a_terminal_has_one_line_that_updates(words: list[str], output: Path) -> None:
    said = on_a_terminal(words)
    check_common(said, output)
    lines = re.findall(r"iter (\d+)/12 [^\r\n\x1b]*", said.replace("\x1b[?25h", ""))
    assert lines[0] == "1" and lines[-1] == "12"
    assert "\r\x1b[2K" in said and "evaluating shapes_val  2/2" in said
    # The cursor is there whenever the program may be killed.
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")
    seen = screen(said)
    for message in (r"Saving checkpoint to \S+model_final.pth", r"Evaluated: bbox AP 0\.0, segm AP 0\.0\."):
        assert any(re.fullmatch(r"\d\d:\d\d:\d\d " + message, line) for line in seen), seen
    # What updates leaves a line before each evaluation and at the end.
    assert sum(line.startswith("iter ") for line in seen) == 2 and not any("evaluating" in line for line in seen)


def screen(said: str) -> list[str]:
    """What is to be seen of an output once all of its control sequences have done their work."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", said):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\x1b[1A":
            row -= 1
        elif part[0] not in "\x1b\r":
            lines[row] += part  # the cursor is at the end, but after \r, which only ever precedes an erasure here
    return [line for line in lines if line]


def test_a_message_is_not_overwritten_and_the_line_goes_on_below() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as file:
        shown = Display()
        shown.console = Console(force_terminal=True, width=30, soft_wrap=True)
        shown.is_terminal = True
        shown.update("iter 1/9")
        shown.print("a warning, longer than the terminal is wide")
        print("printed")
        shown.update("iter 2/9 " + "and more than fits in " * 9)
        with shown.prints_kept(logging.getLogger("test")):
            print("a table")
            shown.update("evaluating 1/2")
            print("another")
            shown.print("a message")
        shown.update("iter 3/9")
        shown.close()
    seen = screen(file.getvalue())
    assert seen[:2] == ["a warning, longer than the terminal is wide", "printed"]
    assert seen[2].startswith("iter 2/9 and more") and seen[2].endswith("…") and len(seen[2]) <= 30
    assert seen[3:] == ["a message", "iter 3/9"]


@pytest.mark.parametrize(
    "variables",
    [
        {"TERM": "dumb"},
        pytest.param({"TTY_INTERACTIVE": "0"}, marks=pytest.mark.slow),
        pytest.param({"CI": "true"}, marks=pytest.mark.slow),
    ],
)
def test_a_terminal_can_be_told_to_have_plain_lines(words: list[str], output: Path, variables: dict[str, str]) -> None:
    said = on_a_terminal(words, **variables)
    check_common(said, output)
    assert "\x1b[2K" not in said and "\x1b[?25l" not in said
    assert len(re.findall(r"^\[[\d/]+ [\d:]+\] iter \d+/12 \d+%  .*loss", said, re.MULTILINE)) == 12


def test_a_pipe_gets_plain_lines(words: list[str], output: Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True, env=environment(FORCE_COLOR="1"), check=True)
    check_common(done.stdout, output)
    assert "\x1b[2K" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if "] iter " in line]
    assert len(lines) == 12 and re.search(
        r"iter 7/12 58%  left 0:00:\d\d  total_loss [\d.]+  segm AP 0\.0  loss_cls ", lines[6]
    )


def test_what_matters_comes_first() -> None:
    with EventStorage(4) as storage:
        scalars = {"loss_mask": 0.5, "total_loss": 3.0, "time": 2.0, "data_time": 0.25, "iuq/fire_rate": 0.03}
        for name, value in {**scalars, "iuq/memory_fill": 0.125, "shapes_val/segm/AP": 12.34}.items():
            storage.put_scalar(name, value)
        storage.put_scalar("bbox/AP", 1.0)
        storage.put_scalar("lr", 0.01, smoothing_hint=False)
        expected = (
            "iter 5/65 8%  left 0:02:00  total_loss 3  segm AP 12.3  loss_mask 0.5  lr 0.01  memory 12%  fire_rate 0.03"
        )
        assert progress_line(storage, 5, 65) == expected
        assert set(storage.latest()) == {*scalars, "iuq/memory_fill", "shapes_val/segm/AP", "bbox/AP", "lr"}


def test_results_of_one_data_set_and_of_several() -> None:
    one = {"bbox": {"AP": float("nan"), "AP50": 1.0}, "segm": {"AP": 12.34}}
    assert results_line(one) == "Evaluated: bbox AP -, segm AP 12.3."
    assert results_line({"a": one, "b": {}}) == "Evaluated: a/bbox AP -, a/segm AP 12.3."
    assert results_line({}) == "Evaluated."


def test_people_see_our_messages_and_all_warnings() -> None:
    def record(name: str, level: int, **more: bool) -> logging.LogRecord:
        return logging.makeLogRecord({"name": name, "levelno": level, **more})

    assert is_for_people(record("adet_iuq.checkpoint", logging.INFO))
    assert is_for_people(record("detectron2.evaluation", logging.WARNING))
    assert is_for_people(record("adet_iuq.engine.loop.metrics", logging.ERROR, **IN_LOG_ONLY))
    assert not is_for_people(record("adet_iuq.engine.setup", logging.INFO, **IN_LOG_ONLY))
    assert not is_for_people(record("detectron2.evaluation", logging.INFO))
    assert not is_for_people(record("detectron2.utils.events", logging.INFO))
