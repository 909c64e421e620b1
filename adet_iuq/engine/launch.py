"""Starting the processes of a run: one, several GPUs, several CPU processes, several machines, or torchrun's."""

import argparse
import os
import socket
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as detectron2_launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessExitedException

from adet_iuq.engine.compat import create_local_process_group
from adet_iuq.errors import UserError

Main = Callable[[argparse.Namespace], object]

EXIT_USER_ERROR = 2


def argument_parser() -> argparse.ArgumentParser:
    """detectron2's parser; `--dist-url` defaults to a free port, so that two runs on one machine do not collide."""
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    return parser


def launch(main: Main, args: argparse.Namespace) -> None:
    """Runs `main(args)` in every process of the run.

    * Under torchrun (RANK and WORLD_SIZE are set) this process joins torchrun's group; its flags decide, ours do not.
    * With CUDA, detectron2's launcher starts `--num-gpus` processes on each of `--num-machines` machines.
    * Without CUDA (or with MODEL.DEVICE cpu on the command line), `--num-gpus` CPU processes talk over gloo.

    A `UserError` in any process is printed without a traceback; the program then exits with code 2.

    Args:
        main: a function of a module (it is pickled for other processes).
        args: of `argument_parser`.
    """
    try:
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            _join_torchrun(main, args)
        elif uses_cuda(args):
            _launch_on_gpus(main, args)
        else:
            _launch_on_cpu(main, args)
    except UserError as error:
        _report(error)
        sys.exit(EXIT_USER_ERROR)
    except ProcessExitedException as error:
        # A worker left with a code of its own, after saying why.
        sys.exit(error.exit_code if error.exit_code > 0 else 1)


def uses_cuda(args: argparse.Namespace) -> bool:
    """Whether the run goes to GPUs: there are some and the command line does not say MODEL.DEVICE cpu."""
    opts = list(args.opts or [])
    overrides = dict(zip(opts[::2], opts[1::2], strict=False))
    return torch.cuda.is_available() and overrides.get("MODEL.DEVICE") != "cpu"


def _launch_on_gpus(main: Main, args: argparse.Namespace) -> None:
    available = torch.cuda.device_count()
    if args.num_gpus > available:
        raise UserError(f"--num-gpus {args.num_gpus}: this machine has {available} CUDA device(s).")
    detectron2_launch(
        _guarded,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=_dist_url(args),
        args=(main, args),
    )


def _launch_on_cpu(main: Main, args: argparse.Namespace) -> None:
    processes = max(args.num_gpus, 1)
    world_size = processes * args.num_machines
    if world_size == 1:
        main(args)
        return
    mp.spawn(_cpu_worker, nprocs=processes, args=(main, args, processes, world_size, _dist_url(args)), daemon=False)


def _cpu_worker(
    local_rank: int, main: Main, args: argparse.Namespace, processes: int, world_size: int, dist_url: str
) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    rank = args.machine_rank * processes + local_rank
    dist.init_process_group("gloo", dist_url, timeout=DEFAULT_TIMEOUT, world_size=world_size, rank=rank)
    create_local_process_group(processes)
    comm.synchronize()
    _guarded(main, args)
    dist.destroy_process_group()


def _join_torchrun(main: Main, args: argparse.Namespace) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if uses_cuda(args):
        torch.cuda.set_device(local_rank)
    if world_size == 1:
        main(args)
        return
    backend = "nccl" if uses_cuda(args) else "gloo"
    dist.init_process_group(backend, "env://", timeout=DEFAULT_TIMEOUT, world_size=world_size, rank=rank)
    create_local_process_group(int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))
    comm.synchronize()
    _guarded(main, args)
    dist.destroy_process_group()


def _guarded(main: Main, args: argparse.Namespace) -> None:
    """`main(args)` in one process of several; a user's error becomes an exit code, which outlives the process."""
    try:
        main(args)
    except UserError as error:
        if comm.get_rank() > 0:
            # Most errors meet all ranks alike: rank 0 speaks first, and its end ends the others.
            time.sleep(2)
        _report(error)
        sys.exit(EXIT_USER_ERROR)


def _report(error: UserError) -> None:
    rank = f" (rank {comm.get_rank()})" if comm.get_rank() > 0 else ""
    sys.stdout.flush()
    print(f"Error{rank}: {error}", file=sys.stderr, flush=True)


def _dist_url(args: argparse.Namespace) -> str:
    if args.dist_url != "auto":
        return str(args.dist_url)
    if args.num_machines > 1:
        raise UserError(
            "--num-machines needs --dist-url: the address of machine 0 and a free port there, such as "
            "tcp://10.0.0.1:29500, the same on every machine."
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"
