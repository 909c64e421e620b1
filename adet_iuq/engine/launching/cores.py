"""How many cores a run on the CPU may use, how many of them are free, and what to say if its threads are too many."""

import math
import os
import sys
import time
from pathlib import Path

import torch

# The user's own words on how many threads there are.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_STATISTICS = Path("/proc/stat")
_SECONDS = 0.3  # for which the machine is watched
_TOLERANCE = 0.5  # cores that may be missing: a program that computes now and then does no harm


def available_cores() -> int:
    """The cores that this process may use, by its affinity and by its container's quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # there is no such file, or its quota is "max"
        return cores


def limit_threads(processes: int) -> None:
    """Gives torch no more threads than this process's share of the cores, unless the user has set their number.

    Args:
        processes: the number of processes of the run on this machine.
    """
    if not any(name in os.environ for name in THREAD_VARIABLES):
        torch.set_num_threads(min(torch.get_num_threads(), max(1, available_cores() // processes)))


def busy_cores() -> float:
    """The number of cores that other programs keep busy at this moment, while this process does nothing.

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
    return (os.cpu_count() or 1) * (user + system) / max(1, sum(spent))


def _times() -> list[int]:
    """What all cores together have spent so far: user, nice, system, idle, iowait, irq, softirq, steal."""
    return [int(word) for word in _STATISTICS.read_text().split(maxsplit=9)[1:9]]


def crowding_advice(busy: float, cores: int, threads: int, processes: int) -> str:
    """What to say at the start if the run's threads and other programs do not fit on the cores; empty if they do.

    Args:
        busy: the number of cores that other programs use.
        cores: the number of cores that the run may use.
        threads: the number of threads of a process.
        processes: the number of processes on this machine.
    """
    free = max(cores - busy, 0.0)
    if threads == 1 or threads * processes <= free + _TOLERANCE:
        return ""
    own = f"{processes} processes of {threads} threads" if processes > 1 else f"{threads} threads"
    return (
        f"Other programs use {busy:.1f} of {cores} cores, and this run computes in {own}, which wait for each other in "
        f"every operation: steps may take several times as long. If they do, {thread_advice(free, processes)}."
    )


def thread_advice(free: float, processes: int) -> str:
    """What to set so that the threads of each process fit on the free cores."""
    threads = max(1, round(free / processes))
    workers = " and DATALOADER.NUM_WORKERS 0" if threads == 1 else ""
    return f"start it with OMP_NUM_THREADS={threads}{workers}"
