#!/usr/bin/env python
"""Trains and evaluates a LazyConfig: --config-file FILE.py [--num-gpus N] [--resume] [--eval-only] [key=value ...].

It is detectron2's tools/lazyconfig_train_net.py with this project's optimisation step, which tells the model the iteration,
as the ramp of the inter-scene loss needs it. Loader, hooks and checkpoints are detectron2's. The rest of tools/train_net.py
is missing here: a resumed run has weights, optimiser and schedule, but its pixel memory starts empty and its samples are
drawn anew; there is no check of data sets, no gradient accumulation and no guard; several processes need GPUs.
"""

import argparse
import sys
from typing import Any

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    TrainerBase,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
    launch,
)
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm

from adet_iuq.config import find_recipe, get_cfg
from adet_iuq.data import register_shapes
from adet_iuq.engine.loop.step import TrainStep
from adet_iuq.engine.meta_arch import unwrap
from adet_iuq.errors import EXIT_USER_ERROR, UserError


class LazyTrainer(TrainerBase):
    """detectron2's loop around this project's step."""

    def __init__(self, cfg: Any, model: torch.nn.Module) -> None:
        """Builds the optimiser and the loader that `cfg`, a LazyConfig, describes for `model` (DDP or bare)."""
        super().__init__()
        cfg.optimizer.params.model = model
        self.optimizer: torch.optim.Optimizer = instantiate(cfg.optimizer)
        dtype = torch.float16 if cfg.train.amp.enabled else None
        self.step = TrainStep(model, self.optimizer, torch.device(cfg.train.device).type, dtype)
        self.step.data_loader = instantiate(cfg.dataloader.train)

    def run_step(self) -> None:
        """Runs one iteration."""
        self.step.iter = self.iter
        self.step.run_step()

    def state_dict(self) -> dict[str, Any]:
        """The state for the checkpoint, which holds the weights beside it."""
        scaler = self.step.grad_scaler.state_dict()
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict(), "grad_scaler": scaler}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state that `state_dict` returned."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.step.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def evaluate(cfg: Any, model: torch.nn.Module) -> dict[str, Any]:
    """The results of `dataloader.test` by `dataloader.evaluator`, on the main process."""
    loader, evaluator = instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    results: dict[str, Any] = inference_on_dataset(unwrap(model), loader, evaluator)
    print_csv_format(results)
    return results


def train(cfg: Any, resume: bool) -> None:
    """Trains what `cfg` describes, from `train.init_checkpoint` or, with `resume`, from the latest checkpoint."""
    model = create_ddp_model(instantiate(cfg.model).to(cfg.train.device), **cfg.train.ddp)
    trainer = LazyTrainer(cfg, model)
    if "optimizer" in cfg.lr_multiplier:  # a schedule of torch, not one of fvcore's multipliers
        cfg.lr_multiplier.optimizer = trainer.optimizer
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    main = comm.is_main_process()
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if main else None,
            hooks.EvalHook(cfg.train.eval_period, lambda: evaluate(cfg, model)),
            hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter), cfg.train.log_period)
            if main
            else None,
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    resumed = resume and checkpointer.has_checkpoint()
    trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)


def main(args: argparse.Namespace) -> None:
    """Runs in every process."""
    try:
        register_shapes(get_cfg())
        args.config_file = find_recipe(args.config_file)
        cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
        default_setup(cfg, args)
        if args.eval_only:
            model = instantiate(cfg.model).to(cfg.train.device)
            DetectionCheckpointer(model).load(cfg.train.init_checkpoint)
            evaluate(cfg, model.eval())
        else:
            train(cfg, args.resume)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
