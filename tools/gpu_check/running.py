"""Runs stages one after the other, each in a process with a time limit: one that hangs or fails costs only itself."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .stage import OK, Row, Settings

_LOG_LINES = 25
_REAP_SECONDS = 10.0  # a process that waits for the driver may not end at once, even if it is killed


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: how it is asked for.
        title: what it shows, for the report.
        seconds: its limit.
        module: the module with its `rows`.
    """

    name: str
    title: str
    seconds: float
    module: str


@dataclass
class Result:
    """What came of a stage.

    Attributes:
        name: the stage's name.
        title: the stage's title.
        outcome: "ok", or what is wrong, in words.
        seconds: how long it took, its start included.
        limit: how long it might have taken.
        rows: all rows that it had until its end.
        log: the last lines that it printed, if it is not ok.
    """

    name: str
    title: str
    outcome: str
    seconds: float
    limit: float
    rows: list[Row] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """The content of the JSON file."""
        return asdict(self)


def run_stages(stages: Sequence[Stage], device: str, dry: bool, folder: Path, total_seconds: float) -> Iterator[Result]:
    """Runs the stages in their order.

    Args:
        stages: the stages.
        device: "cuda" or "cpu".
        dry: whether everything is tiny.
        folder: the folder that gets NAME.log and NAME.jsonl of each.
        total_seconds: the time for all together; a stage for which none is left is not started.
    """
    end = time.monotonic() + total_seconds
    for stage in stages:
        limit = min(stage.seconds, end - time.monotonic())
        if limit < 1:
            yield Result(stage.name, stage.title, "not started: no time was left", 0.0, 0.0)
        else:
            yield run_stage(stage, Settings(device, dry, limit, folder))


def run_stage(stage: Stage, settings: Settings) -> Result:
    """Runs one stage for `settings.seconds` at most."""
    rows_file, log_file = (settings.folder / f"{stage.name}.{kind}" for kind in ("jsonl", "log"))
    rows_file.unlink(missing_ok=True)
    size = "dry" if settings.dry else "real"
    words = [stage.module, settings.device, size, str(settings.seconds), str(rows_file)]
    start = time.monotonic()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpu_check.child", *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        problem = _wait(process, settings.seconds)
    taken = time.monotonic() - start
    rows = _read(rows_file)
    wrong = sum(row.get(OK) is False for row in rows)
    outcome = problem or (f"{wrong} of {len(rows)} rows are not as they must be" if wrong else "ok")
    lines = [] if outcome == "ok" else log_file.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return Result(stage.name, stage.title, outcome, round(taken, 1), round(settings.seconds, 1), rows, lines)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> str:
    """Waits for the end, which it brings about if need be; returns what is wrong, or "" if nothing is."""
    try:
        code = process.wait(seconds)
        return f"failed with exit code {code}" if code else ""
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the processes that it started, too
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_REAP_SECONDS)


def _read(path: Path) -> list[Row]:
    """The rows of a file, without a last one that was cut off."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows
