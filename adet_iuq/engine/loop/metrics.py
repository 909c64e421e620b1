"""Where a run's numbers go: console, metrics.json, TensorBoard; and how they survive a resume."""

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from adet_iuq.errors import UserError
from adet_iuq.files import replace_file

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
_WINDOW = 20  # number of steps over which all writers smooth
_CLOSING_SECONDS = 10.0


class ProgressPrinter(CommonMetricPrinter):
    """Writes detectron2's line to log.txt, and a second line with the memory and the firing rates.

    The terminal has a line of its own (adet_iuq/engine/loop/progress.py).
    """

    def write(self) -> None:
        """Logs the lines for the current iteration; nothing after the last one."""
        storage = get_event_storage()
        if storage.iter >= self._max_iter:
            return
        super().write()
        smooth = {name: buffer.median(_WINDOW) for name, buffer in storage.histories().items()}
        ours = [name for name in smooth if name == "iuq/memory_fill" or "fire_rate" in name]
        if ours:
            self.logger.info("  ".join(f"{name.removeprefix('iuq/')}: {smooth[name]:.3g}" for name in ours))


class MetricsWriter(JSONWriter):
    """detectron2's writer of `metrics.json`, which can also continue the file of a run that is resumed.

    Args:
        path: the file, to which lines are appended.
        last_written: the last iteration in the file; -1 if there is none. Scalars up to it are not written again.
    """

    def __init__(self, path: str, last_written: int) -> None:
        super().__init__(path, _WINDOW)
        self._last_write = last_written


class GuardedWriter(EventWriter):
    """Reports what a writer cannot write, and lets the training continue until it can stop in good order.

    detectron2's writers end the run with a traceback, and without a checkpoint, when the disk is full.
    What could not be written stays in the file's buffer and is tried again with every following line.

    Args:
        writer: the writer that may fail.
        name: the name of its file, for the report.
        on_failure: the function that is called with the report.
    """

    def __init__(self, writer: EventWriter, name: str, on_failure: Callable[[str], object]) -> None:
        self.writer, self.name, self.on_failure = writer, name, on_failure

    def write(self) -> None:
        """Writes, or reports a failure."""
        self._try(self.writer.write)

    def close(self) -> None:
        """Closes the writer, or reports a failure."""
        # If TensorBoard's own thread died of a full disk, its `close` waits for that thread forever.
        closing = threading.Thread(target=self._try, args=(self.writer.close,), daemon=True)
        closing.start()
        closing.join(_CLOSING_SECONDS)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            report = f"{self.name} cannot be written: {error.strerror or error}. Free some space on that disk."
            logger.error(report)
            self.on_failure(report)


def build_writers(
    output_dir: str, max_iter: int, start_iter: int, last_written: int, on_failure: Callable[[str], object]
) -> list[EventWriter]:
    """Writers for the console, for `metrics.json` (one JSON object per line) and for TensorBoard.

    Args:
        output_dir: the folder of the two files.
        max_iter: the last iteration, from which the time left is computed.
        start_iter: TensorBoard hides what an earlier process wrote from this iteration on.
        last_written: the last iteration in `metrics.json`.
        on_failure: the function that is called with a message if a file cannot be written.

    Raises:
        UserError: a file cannot be opened.
    """
    resumed = {"purge_step": start_iter} if start_iter > 0 else {}
    path = os.path.join(output_dir, METRICS_FILE)
    try:
        metrics, board = MetricsWriter(path, last_written), TensorboardXWriter(output_dir, _WINDOW, **resumed)
    except OSError as error:
        raise UserError(f"{output_dir} cannot be written: {error.strerror or error}. Free some space.") from error
    return [
        ProgressPrinter(max_iter),
        GuardedWriter(metrics, path, on_failure),
        GuardedWriter(board, os.path.join(output_dir, "events.out.tfevents..."), on_failure),
    ]


def close_writers(writers: list[EventWriter]) -> None:
    """Closes the files of a run that will be continued."""
    for writer in writers:
        writer.close()


def write_and_close(writers: list[EventWriter]) -> None:
    """Writes what a failed run has not written yet. An error here is ignored: the first one is reported."""
    for writer in writers:
        with contextlib.suppress(Exception):
            writer.write()
        writer.close()


def trim_metrics(output_dir: str, start_iter: int) -> int:
    """Removes from `metrics.json` what a killed run wrote at `start_iter` or later, and a half-written last line.

    Returns:
        The last iteration that is left in the file; -1 if there is none.
    """
    path = Path(output_dir) / METRICS_FILE
    if not path.is_file():
        return -1
    kept, last = [], -1
    for line in path.read_text().splitlines():
        try:
            iteration = json.loads(line)["iteration"]
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
        if iteration < start_iter:
            kept.append(line + "\n")
            last = max(last, iteration)
    replace_file(path, lambda file: file.write("".join(kept).encode()))
    return last


def set_metrics_aside(output_dir: str) -> None:
    """Renames the `metrics.json` of an earlier run, so that a new run in the same folder does not continue it."""
    path = Path(output_dir) / METRICS_FILE
    if not path.is_file() or path.stat().st_size == 0:
        return
    number = 1
    while (aside := path.with_name(f"metrics.{number}.json")).exists():
        number += 1
    path.rename(aside)
    logger.warning(
        "%s holds an earlier run. Its metrics are now in %s; its checkpoints are overwritten where names agree. "
        "To continue it instead, add --resume.",
        output_dir,
        aside.name,
    )


def history(storage: EventStorage) -> dict[str, Any]:
    """The recent values of all scalars of this iteration, as many as writers smooth over."""
    hints = storage.smoothing_hints()
    return {
        name: {
            "values": [(float(value), int(when)) for value, when in storage.history(name).values()[-_WINDOW:]],
            "smooth": bool(hints[name]),
        }
        for name, (_, latest) in storage.latest().items()
        if latest == storage.iter
    }


def restore_history(storage: EventStorage, saved: dict[str, Any]) -> None:
    """Fills a new storage, so that the smoothed numbers of a resumed run are those of an unbroken one."""
    for name, scalar in saved.items():
        for value, when in scalar["values"]:
            storage.iter = when
            storage.put_scalar(name, value, smoothing_hint=scalar["smooth"])
