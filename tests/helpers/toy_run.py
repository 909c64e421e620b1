"""tools/train_net.py with the toy segmenter and the faults of helpers/faults.py, as a program of its own.

PRESS_BEFORE=<rank> (environment): there Ctrl-C is pressed before the training is set up, while the other ranks wait.
SPAWN: processes are started as detectron2's launcher does on GPUs, which then are none.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

import adet_iuq.engine.launching.launch as launching
import helpers.toy_segmenter  # noqa: F401  registers it
from adet_iuq.engine import argument_parser, launch
from adet_iuq.engine.launching.compat import create_local_process_group
from helpers import faults


def main(args: argparse.Namespace) -> None:
    """What every process does."""
    if os.environ.get("PRESS_BEFORE") == str(comm.get_rank()):
        faults.press_ctrl_c()
        time.sleep(60)
    comm.synchronize()
    faults.main(args)


def spawn(function: Callable[..., object], count: int, *, dist_url: str, args: tuple[Any, ...], **_: Any) -> None:
    """detectron2's `launch` for CPU processes."""
    mp.spawn(_spawned, nprocs=count, args=(count, dist_url, function, args), daemon=False)


def _spawned(rank: int, count: int, url: str, function: Callable[..., object], args: tuple[Any, ...]) -> None:
    dist.init_process_group("gloo", url, world_size=count, rank=rank)
    create_local_process_group(count)
    function(*args)


if __name__ == "__main__":
    if "SPAWN" in os.environ:
        launching.detectron2_launch = spawn  # type: ignore[assignment]
        launching.uses_cuda = lambda args: True
        torch.cuda.device_count = lambda: 2
    launch(main, argument_parser().parse_args())
