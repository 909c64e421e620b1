#!/usr/bin/env python
"""Submits a training to SLURM through submitit; it continues by itself after time limits and preemptions.

python tools/slurm/submit.py [--nodes N] [--gpus-per-node N] [--hours H] [--partition P] [--folder F] -- TRAIN_NET_ARGUMENTS

Needs the extra: pip install -e '.[submitit]'. Everything after -- is train_net.py's; see docs/scaling.md.
"""

import argparse
import importlib.util
import os
import signal
import sys
import time
from typing import Any

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

from adet_iuq.commands.train import run
from adet_iuq.engine import argument_parser, launch
from adet_iuq.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError

_REQUEUE_SECONDS = 20


class TrainingJob:
    """The function that every task of the job calls: one process of the training.

    Args:
        words: the arguments of train_net.py.
    """

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __call__(self) -> None:
        """Trains, from the last checkpoint if there is one. An interruption is passed on to submitit, which requeues."""
        try:
            launch(run, argument_parser().parse_args(["--resume", *self.words]))
        except SystemExit as end:
            if end.code == EXIT_INTERRUPTED:
                # The training handled this signal itself. Now everything is saved, and submitit's own handler is back,
                # which on rank 0 calls `checkpoint` and requeues the job.
                signal.raise_signal(getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")))
                # The other ranks get here too. They wait, as their end could end rank 0 before it has requeued.
                time.sleep(_REQUEUE_SECONDS)
            raise

    def checkpoint(self) -> Any:
        """The job that submitit starts when it comes back: the same one, since it always resumes."""
        import submitit

        return submitit.helpers.DelayedSubmission(TrainingJob(self.words))


def submit(args: argparse.Namespace) -> Any:
    """Gives the job to submitit's executor; returns its handle.

    Raises:
        UserError: submitit is not installed.
    """
    if importlib.util.find_spec("submitit") is None:
        raise UserError(
            "submitit is not installed: pip install 'adet-iuq[submitit]' (here: pip install -e '.[submitit]'), or use "
            "sbatch tools/slurm/train.sbatch, which needs nothing but SLURM."
        )
    import submitit

    executor = submitit.AutoExecutor(folder=args.folder, cluster=args.cluster, slurm_max_num_timeout=args.max_requeues)
    executor.update_parameters(
        name="adet_iuq",
        nodes=args.nodes,
        tasks_per_node=max(args.gpus_per_node, 1) if args.tasks_per_node is None else args.tasks_per_node,
        gpus_per_node=args.gpus_per_node,
        cpus_per_task=args.cpus_per_task,
        timeout_min=round(args.hours * 60),
        slurm_signal_delay_s=300,
        **({"slurm_partition": args.partition} if args.partition else {}),
    )
    return executor.submit(TrainingJob(args.words))


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--nodes", type=int, default=1)
    result.add_argument("--gpus-per-node", type=int, default=8)
    result.add_argument("--tasks-per-node", type=int, help="processes per machine; default: one per GPU")
    result.add_argument("--cpus-per-task", type=int, default=6)
    result.add_argument("--hours", type=float, default=24.0)
    result.add_argument("--partition", default="")
    result.add_argument("--max-requeues", type=int, default=100, help="after time limits; preemptions do not count")
    result.add_argument("--folder", default="output/slurm/%j", help="folder of submitit's logs")
    result.add_argument("--cluster", help="slurm, local or debug; default: slurm if there is one")
    result.add_argument("words", nargs=argparse.REMAINDER, help="-- and train_net.py's arguments")
    return result


def main() -> None:
    """Submits and says where the logs are."""
    args = parser().parse_args()
    args.words = args.words[1:] if args.words[:1] == ["--"] else args.words
    try:
        job = submit(args)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    print(f"Submitted job {job.job_id}; logs are in {args.folder.replace('%j', str(job.job_id))}.")


if __name__ == "__main__":
    main()
