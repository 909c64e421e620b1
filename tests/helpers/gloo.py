"""Runs a test file as several gloo processes on this machine.

A test file calls `run_ranks(__file__, ranks, folder)`; as a script it calls `main(worker)`, and what `worker(rank, ranks,
folder, *arguments)` returns on each rank comes back.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from adet_iuq.engine.launching.compat import leave_process_group

_TIMEOUT = 300  # seconds; a hang fails the test then


def run_ranks(script: str, ranks: int, folder: Path, *arguments: str) -> list[Any]:
    """What the worker of a test file returns on each rank; everything that torch.save takes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), str(ranks), str(folder), *arguments], env=environment)
        for rank in range(ranks)
    ]
    try:
        deadline = time.monotonic() + _TIMEOUT
        while None in (codes := [process.poll() for process in processes]):
            # The first that fails ends the others, which may wait for it.
            assert set(codes) <= {0, None}, f"exit codes by rank: {codes}"
            assert time.monotonic() < deadline, f"hangs; exit codes by rank: {codes}"
            time.sleep(0.05)
        assert set(codes) == {0}, f"exit codes by rank: {codes}"
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def main(worker: Callable[..., Any]) -> None:
    """One of the processes."""
    rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    torch.save(worker(rank, ranks, folder, *sys.argv[4:]), folder / f"{rank}.pt")
    leave_process_group()
