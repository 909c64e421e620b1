"""Notices that other programs take the cores of a run on the CPU."""

import logging
import statistics
import time
from dataclasses import dataclass

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from adet_iuq.engine.launching.crowding import thread_advice

logger = logging.getLogger(__name__)

_SLOWER = 2.0  # times the seconds of a step that lead to a warning ...
_MISSING = 0.3  # ... if the run has also lost so many cores: beside one busy program n threads lose n / (n + 1)


@dataclass(frozen=True)
class Pace:
    """A number of steps.

    Attributes:
        seconds: the median time of a step, without the wait for data.
        cores: the processor time of all threads of the process, divided by the time that passed.
    """

    seconds: float
    cores: float


class ContentionGuard(HookBase):
    """Warns, once, when steps become much slower although the process computes less.

    A step that has more to do takes longer too, but then its threads are as busy as before. If other programs take the
    cores, the threads get less processor time. The guard compares with the run's own fastest steps. It stands before the
    hooks that save and evaluate.

    Args:
        processes: the number of processes of the run on this machine.
        window: the number of steps that are judged together.
    """

    def __init__(self, processes: int, window: int = 20) -> None:
        self._processes, self._window = processes, window
        self._steps: list[tuple[float, float]] = []  # seconds and processor time of each
        self._best: Pace | None = None
        self._warned = False

    def before_step(self) -> None:
        """Starts both clocks."""
        self._start = time.perf_counter(), time.process_time()

    def after_step(self) -> None:
        """Stops them, and judges if there are enough steps."""
        seconds = time.perf_counter() - self._start[0] - self.trainer.storage.latest()["data_time"][0]
        self._steps.append((seconds, time.process_time() - self._start[1]))
        if len(self._steps) == self._window:
            self._judge(_pace(self._steps))
            self._steps = []

    def _judge(self, now: Pace) -> None:
        best = self._best
        if best is None or now.seconds < best.seconds:
            self._best = now
        elif not self._warned and now.seconds > _SLOWER * best.seconds and now.cores < best.cores - _MISSING:
            self._warned = True
            logger.warning(
                "A step takes %.2g s instead of %.2g s, while this process computes on %.1f cores instead of %.1f: other "
                "programs have taken them, and its threads wait for each other in every operation. If it stays so, "
                "interrupt the run, %s, and go on with --resume.",
                *(now.seconds, best.seconds, now.cores, best.cores, thread_advice(now.cores, self._processes)),
            )


def contention_guards(device: str) -> list[HookBase]:
    """A guard for the main process on a CPU, if torch computes in several threads, which can wait for each other.

    Args:
        device: MODEL.DEVICE.
    """
    wanted = device == "cpu" and torch.get_num_threads() > 1 and comm.is_main_process()
    return [ContentionGuard(comm.get_local_size())] if wanted else []


def _pace(steps: list[tuple[float, float]]) -> Pace:
    seconds, computing = zip(*steps, strict=True)
    return Pace(statistics.median(seconds), sum(computing) / max(sum(seconds), 1e-9))
