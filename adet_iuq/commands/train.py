"""Trains and evaluates: --config-file FILE [--project P] [--num-gpus N] [--resume] [--eval-only] [KEY VALUE ...].

On a machine without CUDA, --num-gpus counts CPU processes. The environments of torchrun and SLURM are understood too;
see docs/scaling.md. --project imports a folder or module with segmenters and config keys of its own;
adet_iuq/config/projects.py describes what it must contain.
"""

import argparse
from typing import Any

from detectron2.utils import comm

import adet_iuq.modeling  # noqa: F401  registers the segmenters
from adet_iuq.checkpoint import build_checkpointer
from adet_iuq.data.registration.mosaic import evaluated_sets
from adet_iuq.engine import Trainer, argument_parser, launch, setup
from adet_iuq.errors import UserError
from adet_iuq.evaluation import print_results
from adet_iuq.reporting.hook import report_evaluation


def run(args: argparse.Namespace) -> None:
    """Runs in every process.

    Raises:
        UserError: something fails that the user can mend.
    """
    cfg = setup(args)
    results: dict[str, Any]
    if args.eval_only:
        if not cfg.DATASETS.TEST:
            raise UserError("--eval-only: DATASETS.TEST is empty; name at least one data set.")
        model = Trainer.build_model(cfg)
        checkpointer = build_checkpointer(cfg, model)
        if not args.resume or checkpointer.load_last() is None:
            if not cfg.MODEL.WEIGHTS:
                raise UserError("--eval-only: no weights. Add MODEL.WEIGHTS path/to/model_final.pth, or --resume.")
            checkpointer.load(cfg.MODEL.WEIGHTS, strict=True)
        results = Trainer.test(cfg, model)
        report_evaluation(cfg)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
    if comm.is_main_process() and cfg.DATASETS.TEST:
        print_results(results, evaluated_sets(cfg))


def main(words: list[str] | None = None) -> int:
    """Starts the processes of the run. If the exit code is not 0, it ends the program itself (`launch`)."""
    launch(run, argument_parser().parse_args(words))
    return 0
