#!/usr/bin/env python
"""Trains and evaluates: --config-file FILE [--project P] [--num-gpus N] [--resume] [--eval-only] [KEY VALUE ...].

On a machine without CUDA, --num-gpus counts CPU processes. torchrun's and SLURM's environments are understood as well; see
docs/scaling.md. --project imports a folder or module with segmenters and config keys of its own;
adet_iuq/config/projects.py says what it must be.
"""

import argparse
from pathlib import Path
from typing import Any

from detectron2.utils import comm

import adet_iuq.modeling  # noqa: F401  registers the segmenters
from adet_iuq.checkpoint import build_checkpointer, checkpoint_to_resume
from adet_iuq.engine import Trainer, argument_parser, launch, setup
from adet_iuq.errors import UserError
from adet_iuq.evaluation import print_results


def main(args: argparse.Namespace) -> None:
    """What every process does.

    Raises:
        UserError: anything that the user can mend.
    """
    cfg = setup(args)
    results: dict[str, Any]
    if args.eval_only:
        if not cfg.DATASETS.TEST:
            raise UserError("--eval-only: DATASETS.TEST is empty; name at least one data set.")
        model = Trainer.build_model(cfg)
        checkpointer = build_checkpointer(cfg, model)
        weights = cfg.MODEL.WEIGHTS
        if args.resume and checkpointer.has_checkpoint():
            weights = str(checkpoint_to_resume(Path(checkpointer.get_checkpoint_file())))
        if not weights:
            raise UserError("--eval-only: no weights. Add MODEL.WEIGHTS path/to/model_final.pth, or --resume.")
        checkpointer.load(weights, checkpointables=[], strict=True)
        results = Trainer.test(cfg, model)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
    if comm.is_main_process() and cfg.DATASETS.TEST:
        print_results(results, cfg.DATASETS.TEST)


if __name__ == "__main__":
    launch(main, argument_parser().parse_args())
