"""How many cores of the machine this process may use."""

import math
import os
import sys
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def visible_cores() -> set[int]:
    """The numbers of the cores that this process may run on, by its affinity."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))


def available_cores() -> int:
    """The number of cores that this process may use at once: those it may run on, or its container's quota if that is
    less (cgroup v2, as the container sees it)."""
    cores = len(visible_cores())
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # there is no such file, or its quota is "max"
        return cores
