"""How many cores are free at the start of a run on the CPU, and what to say if its threads are too many."""

import os
import sys
import time
from pathlib import Path

import torch

from adet_iuq.cores import available_cores, visible_cores

# The user's own words on how many threads there are.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_STATISTICS = Path("/proc/stat")
_SECONDS = 0.3  # for which the machine is watched
_TOLERANCE = 0.5  # cores that may be missing: a program that computes now and then does no harm


def limit_threads(processes: int) -> None:
    """Gives torch no more threads than this process's share of the cores, unless the user has set their number.

    Args:
        processes: the number of processes of the run on this machine.
    """
    if not any(name in os.environ for name in THREAD_VARIABLES):
        torch.set_num_threads(min(torch.get_num_threads(), max(1, available_cores() // processes)))


def busy_cores() -> float:
    """The number of cores that other programs keep busy at this moment, while this process does nothing, of the cores that
    it may run on.

    Programs that gave themselves a lower priority do not count, as they make way. Where Linux's statistics are missing it
    is the load of the last minute.
    """
    try:
        before = _times()
        time.sleep(_SECONDS)
        spent = [now - then for now, then in zip(_times(), before, strict=True)]
    except (OSError, ValueError):
        return os.getloadavg()[0] if sys.platform != "win32" else 0.0
    user, _nice, system = spent[:3]
    return len(visible_cores()) * (user + system) / max(1, sum(spent))


def _times() -> list[int]:
    """What the visible cores together have spent so far: user, nice, system, idle, iowait, irq, softirq, steal."""
    lines = {words[0]: words[1:9] for words in map(str.split, _STATISTICS.read_text().splitlines()) if words}
    mine = [lines[f"cpu{number}"] for number in visible_cores() if f"cpu{number}" in lines] or [lines.get("cpu", [])]
    return [sum(map(int, spent)) for spent in zip(*mine, strict=True)]


def crowding_advice(busy: float, visible: int, cores: int, threads: int, processes: int) -> str:
    """What to say at the start if the run's threads and other programs do not fit on the cores; empty if they do.

    Args:
        busy: the number of visible cores that other programs use.
        visible: the number of cores that the run may run on.
        cores: the number of cores that it may use at once, which a quota makes less.
        threads: the number of threads of a process.
        processes: the number of processes on this machine.
    """
    free = max(min(cores, visible - busy), 0.0)
    if threads == 1 or threads * processes <= free + _TOLERANCE:
        return ""
    own = f"{processes} processes of {threads} threads" if processes > 1 else f"{threads} threads"
    return (
        f"Other programs use {busy:.1f} of {visible} cores, and this run computes in {own}, which wait for each other in "
        f"every operation: steps may take several times as long. If they do, {thread_advice(free, processes)}."
    )


def thread_advice(free: float, processes: int) -> str:
    """What to set so that the threads of each process fit on the free cores."""
    threads = max(1, round(free / processes))
    workers = " and DATALOADER.NUM_WORKERS 0" if threads == 1 else ""
    return f"start it with OMP_NUM_THREADS={threads}{workers}"
