"""Runs a test file as several gloo processes on this machine.

A test file calls `run_ranks(__file__, ranks, folder)`; as a script it calls `main(worker)`, and what `worker(rank, ranks,
folder, *arguments)` returns on each rank comes back.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_TIMEOUT = 150  # seconds; a hang fails the test then


def run_ranks(script: str, ranks: int, folder: Path, *arguments: str) -> list[Any]:
    """What the worker of a test file returns on each rank; everything that torch.save takes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), str(ranks), str(folder), *arguments], env=environment)
        for rank in range(ranks)
    ]
    try:
        assert [process.wait(timeout=_TIMEOUT) for process in processes] == [0] * ranks
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def main(worker: Callable[..., Any]) -> None:
    """One of the processes."""
    rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    torch.save(worker(rank, ranks, folder, *sys.argv[4:]), folder / f"{rank}.pt")
    dist.destroy_process_group()
