"""The progress of a run in one line for people. The important things come first, as the end may not fit a terminal."""

import datetime
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from adet_iuq.engine.console import display

_WINDOW = 20  # number of steps over which numbers are smoothed, as in log.txt
_PLAIN_SECONDS = 10.0  # time between two plain lines of an evaluation


def progress_line(storage: EventStorage, done: int, total: int) -> str:
    """The line of a training.

    Args:
        storage: what has been logged so far.
        done: the number of iterations so far.
        total: the number of iterations of the whole run.
    """
    smooth = {name: buffer.median(_WINDOW) for name, buffer in storage.histories().items()}
    latest = {name: value for name, (value, _) in storage.latest().items()}
    parts = [f"iter {done}/{total} {done / total:.0%}"]
    if "time" in smooth:
        parts.append(f"left {_duration(storage.history('time').median(1000) * (total - done))}")
    parts += [f"total_loss {smooth['total_loss']:.4g}"] if "total_loss" in smooth else []
    parts += [f"{task} AP {_number(latest[name])}" for task, name in _average_precisions(latest)]
    parts += [f"{name} {value:.3g}" for name, value in smooth.items() if "loss" in name and name != "total_loss"]
    parts += [f"lr {latest['lr']:.2g}"] if "lr" in latest else []
    parts += [f"memory {latest['iuq/memory_fill']:.0%}"] if "iuq/memory_fill" in latest else []
    parts += [f"fire_rate {smooth['iuq/fire_rate']:.3g}"] if "iuq/fire_rate" in smooth else []
    return "  ".join(parts)


def results_line(results: Mapping[str, Any]) -> str:
    """The line of an evaluation: the AP of every task in the results of `Trainer.test`."""
    flat: dict[str, float] = {}
    for name, value in results.items():
        for metric, number in value.items():
            if isinstance(number, Mapping):  # the results of one of several data sets
                flat |= {f"{name}/{metric}/{inner}": float(one) for inner, one in number.items()}
            else:
                flat[f"{name}/{metric}"] = float(number)
    found = [f"{name.removesuffix('/AP')} AP {_number(value)}" for name, value in flat.items() if name.endswith("/AP")]
    return f"Evaluated: {', '.join(found)}." if found else "Evaluated."


class ProgressDisplay(HookBase):
    """Shows the line: on a terminal after a step, at most twice a second; elsewhere whenever log.txt gets one.

    It belongs on the main process only.

    Args:
        period: the number of iterations between two plain lines.
    """

    def __init__(self, period: int) -> None:
        self.period = period

    def after_step(self) -> None:
        """Shows the line if it is time."""
        done, total = self.trainer.iter + 1, self.trainer.max_iter
        is_due = display().is_due() if display().is_terminal else done % self.period == 0
        if is_due or done == total:
            display().update(progress_line(self.trainer.storage, done, total))


class WatchedLoader:
    """A test loader that shows the progress of the evaluation, on the main process.

    Args:
        loader: the loader of batches, which has a length.
        name: the name of the data set.
    """

    def __init__(self, loader: Any, name: str) -> None:
        self.loader, self.name = loader, name

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return self._shown(self.loader) if comm.is_main_process() else iter(self.loader)

    def _shown(self, batches: Iterable[Any]) -> Iterator[Any]:
        start, total = time.monotonic(), len(self)
        for done, batch in enumerate(batches):
            if done and (display().is_due() if display().is_terminal else display().is_due(_PLAIN_SECONDS)):
                left = (time.monotonic() - start) / done * (total - done)
                display().update(f"evaluating {self.name}  {done}/{total} {done / total:.0%}  left {_duration(left)}")
            yield batch
        if display().is_terminal:
            display().update(f"evaluating {self.name}  {total}/{total}  comparing with the ground truth ...")


def _average_precisions(latest: Mapping[str, float]) -> list[tuple[str, str]]:
    """The names of task and scalar for the AP of masks, or else of boxes, on the first data set; empty if there is none."""
    for task in ("segm", "bbox"):
        for name in latest:
            if name == f"{task}/AP" or name.endswith(f"/{task}/AP"):
                return [(task, name)]
    return []


def _number(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "-"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
