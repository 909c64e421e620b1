"""What a stage is given and what it yields. A stage is a module with `rows(settings)`; child.py runs it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

T = TypeVar("T")
# One line of a stage's table. OK, where it is there, says whether the line is as it must be.
Row = dict[str, str | float | int | bool | None]
OK = "ok"


@dataclass(frozen=True)
class Settings:
    """Where a stage runs and how large it is.

    Attributes:
        device: "cuda" or "cpu".
        dry: whether everything is tiny, so that the stage only shows that it runs.
        seconds: the time that the stage has.
        folder: the folder for its files.
    """

    device: str
    dry: bool
    seconds: float
    folder: Path

    def pick(self, real: T, tiny: T) -> T:
        """`tiny` in a dry run, else `real`."""
        return tiny if self.dry else real


def wait(device: str) -> None:
    """Returns when the device has done all that it was given."""
    if device == "cuda":
        import torch  # here, so that reading the settings takes no time

        torch.cuda.synchronize()


def timed(step: Callable[[], object], device: str) -> float:
    """The seconds that a step takes, until the device has done it."""
    wait(device)
    start = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - start


def milliseconds(seconds: Sequence[float]) -> float:
    """The median, in milliseconds."""
    return round(1000 * median(seconds), 3)


def megabytes(count: int) -> float:
    """Bytes as MiB."""
    return round(count / 2**20, 1)
