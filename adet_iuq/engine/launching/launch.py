"""Starting the processes of a run: one, several GPUs, several CPU processes, several machines, torchrun's or SLURM's."""

import argparse
import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessExitedException

from adet_iuq.config import add_project_option, get_cfg, load_keys
from adet_iuq.cores import available_cores, visible_cores
from adet_iuq.engine.launching.command_line import command_to_go_on
from adet_iuq.engine.launching.compat import create_local_process_group, leave_process_group
from adet_iuq.engine.launching.crowding import busy_cores, crowding_advice, limit_threads
from adet_iuq.engine.launching.interruption import end_at_once, handled, hold_back, stop_now
from adet_iuq.engine.launching.placement import Placement, placement
from adet_iuq.engine.launching.processes import end_process, forwarded_signals, run_processes
from adet_iuq.errors import EXIT_USER_ERROR, TrainingInterrupted, UserError

Main = Callable[[argparse.Namespace], object]

EXIT_LOST_CONTACT = 1
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def argument_parser() -> argparse.ArgumentParser:
    """detectron2's parser and `--project`; `--dist-url` defaults to a free port, so that two runs do not collide."""
    parser = default_argument_parser()
    add_project_option(parser)
    # The other values belong to the launcher: why it set `resume` itself, how the program was started, this process's rank,
    # and what to say about other programs on the cores.
    parser.set_defaults(dist_url="auto", why_resumed="", started_by=tuple(sys.orig_argv), rank=0, crowding="")
    return parser


def launch(main: Main, args: argparse.Namespace) -> None:
    """Runs `main(args)` in every process of the run.

    * Under torchrun (RANK and WORLD_SIZE are set) this process joins torchrun's group; torchrun's flags decide, not ours.
      After a restart by torchrun the run is resumed.
    * Under srun with a task for every process, and neither --num-gpus nor --num-machines, it joins SLURM's.
    * With CUDA, detectron2's launcher starts `--num-gpus` processes on each of `--num-machines` machines.
    * Without CUDA (or with MODEL.DEVICE cpu), `--num-gpus` CPU processes talk over gloo.

    Exit codes: 2 after a `UserError` in any process, which is printed without a traceback; 75 after an interruption that
    saved everything (`TrainingInterrupted`), 130 if Ctrl-C was it; 128 plus its number if a signal killed a process; 1 for
    everything else. Processes wait for each other for at most DIST.TIMEOUT_MINUTES.

    Args:
        main: a function of a module (it is pickled for other processes).
        args: the result of `argument_parser`.
    """
    try:
        with handled(stop_now, end_at_once):
            _launch(main, args)
    except TrainingInterrupted as interruption:
        _end_interrupted(interruption, args)
    except UserError as error:
        _report(error)
        sys.exit(EXIT_USER_ERROR)
    except ProcessExitedException as error:
        # A worker of detectron2's launcher left with a code of its own, after saying why.
        sys.exit(error.exit_code if error.exit_code > 0 else 128 - error.exit_code)


def _launch(main: Main, args: argparse.Namespace) -> None:
    place = placement(os.environ, own_launch=args.num_gpus > 1 or args.num_machines > 1)
    if place is not None:
        if place.world_size > 1:
            args.started_by = ()  # the words that started it, which would have to be repeated, are unknown here
        _join(args, main, place)
    elif max(args.num_gpus, 1) * args.num_machines == 1:
        _fit_on_cores(args, 1)
        _guarded(main, args)
    elif uses_cuda(args):
        _launch_on_gpus(main, args)
    else:
        _launch_on_cpu(main, args)


def uses_cuda(args: argparse.Namespace) -> bool:
    """Whether the run goes to GPUs: there are some and neither config nor command line says MODEL.DEVICE cpu."""
    return torch.cuda.is_available() and _config(args).MODEL.DEVICE != "cpu"


def _config(args: argparse.Namespace) -> CfgNode:
    """The keys that the launcher needs before any process loads the config; a broken config is left to `main`."""
    try:
        return load_keys(("MODEL.DEVICE", "DIST.TIMEOUT_MINUTES"), args.config_file or None, args.opts)
    except UserError:
        return get_cfg()


def _timeout(args: argparse.Namespace) -> timedelta:
    minutes = _config(args).DIST.TIMEOUT_MINUTES
    if minutes <= 0:
        raise UserError(f"DIST.TIMEOUT_MINUTES is {minutes}; processes must wait for each other for some time.")
    return timedelta(minutes=minutes)


def _launch_on_gpus(main: Main, args: argparse.Namespace) -> None:
    available = torch.cuda.device_count()
    if args.num_gpus > available:
        raise UserError(f"--num-gpus {args.num_gpus}: this machine has {available} CUDA device(s).")
    # This thread goes on listening; the starter thread holds Ctrl-C back from the processes until `_guarded` hears it.
    with forwarded_signals(), ThreadPoolExecutor(1, initializer=hold_back) as starter:
        starter.submit(
            detectron2_launch,
            _guarded,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=_dist_url(args),
            args=(main, args),
            timeout=_timeout(args),
        ).result()


def _launch_on_cpu(main: Main, args: argparse.Namespace) -> None:
    count = max(args.num_gpus, 1)
    first, url = args.machine_rank * count, _dist_url(args)
    places = [Placement(first + local, count * args.num_machines, local, count, url) for local in range(count)]
    _fit_on_cores(args, count)
    code = run_processes(_cpu_process, [(main, args, place) for place in places], first)
    if code:
        sys.exit(code)


def _fit_on_cores(args: argparse.Namespace, processes: int) -> None:
    """Limits torch's threads for a run on the CPU, and notes what to tell the user if they are too many nevertheless."""
    if uses_cuda(args):
        return
    limit_threads(processes)
    if torch.get_num_threads() > 1:
        cores = len(visible_cores()), available_cores()
        args.crowding = crowding_advice(busy_cores(), *cores, torch.get_num_threads(), processes)


def _cpu_process(main: Main, args: argparse.Namespace, place: Placement) -> None:
    limit_threads(place.local_size)
    args.rank = place.rank  # for messages before the processes know each other
    _guarded(_join, args, main, place)
    end_process(0)


def _join(args: argparse.Namespace, main: Main, place: Placement) -> None:
    """Joins the process group and runs `main`."""
    args.rank = place.rank
    cuda = bool(place.starter) and uses_cuda(args)
    if cuda:
        # SLURM may show each task only its own GPU.
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    if place.restarts > 0 and not args.resume:
        args.resume = True
        args.why_resumed = f"Restart number {place.restarts} by {place.starter}: --resume is implied."
    if place.world_size == 1:
        _guarded(main, args)
        return
    _guarded(_form_group, args, place, cuda)
    try:
        _guarded(main, args)
    except SystemExit as end:
        leave_process_group()
        end_process(end.code if isinstance(end.code, int) else int(end.code is not None))
    leave_process_group()


def _form_group(args: argparse.Namespace, place: Placement, cuda: bool) -> None:
    timeout = _timeout(args)
    try:
        dist.init_process_group(
            "nccl" if cuda else "gloo", place.url, timeout=timeout, world_size=place.world_size, rank=place.rank
        )
        create_local_process_group(place.local_size)
        comm.synchronize()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"Rank {place.rank} of {place.world_size} did not find the others at {place.url} within {timeout} "
            f"(DIST.TIMEOUT_MINUTES): {str(error).splitlines()[0]} Start all of them, with the same address."
        ) from error


def _guarded(function: Callable[..., object], args: argparse.Namespace, *more: object) -> None:
    """Calls a function in a process of the run. A `UserError` becomes an exit code, which outlives the process."""
    try:
        with handled(stop_now, end_at_once):
            _explained(function, args, *more)
    except TrainingInterrupted as interruption:
        _end_interrupted(interruption, args)


def _end_interrupted(interruption: TrainingInterrupted, args: argparse.Namespace) -> NoReturn:
    if max(args.rank, comm.get_rank()) == 0:
        command = command_to_go_on(args.started_by, args.config_file, args.opts, interruption.resumes)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            print(f"{interruption} To go on: {command}", file=sys.stderr, flush=True)
    else:
        time.sleep(1)  # the end of this process may end all, so rank 0 must have printed first
    sys.exit(interruption.exit_code)


def _explained(function: Callable[..., object], *arguments: object) -> None:
    try:
        function(*arguments)
    except UserError as error:
        if comm.get_rank() > 0:
            # Most errors occur on all ranks alike. Rank 0 prints first, and its end ends the others.
            time.sleep(2)
        _report(error)
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        if error.errno not in _FULL_DISK:
            raise
        where = f" of {error.filename}" if error.filename else ""
        _report(f"the disk{where} cannot be written: {error.strerror}. Free some space, then go on with --resume.")
        sys.exit(EXIT_USER_ERROR)
    except RuntimeError as error:
        if not _lost_contact(error):
            raise
        _report(
            f"lost contact with another process, which died or hangs; its own output says why ("
            f"{str(error).splitlines()[0]}). Go on from the last checkpoint with --resume."
        )
        # The process ends at once: closing a process group during an exchange may abort, which would hide the exit code.
        os._exit(EXIT_LOST_CONTACT)


def _lost_contact(error: RuntimeError) -> bool:
    return comm.get_world_size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())


def _report(error: object) -> None:
    rank = f" (rank {comm.get_rank()})" if comm.get_rank() > 0 else ""
    with contextlib.suppress(OSError):  # the output may be a file on a full disk
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
