"""Learning-rate schedules: detectron2's own (steps, cosine) and its DeepLab project's polynomial one (section 4.1)."""

import logging
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler

from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

_NAMES = ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR")


class PolyLR(WarmupPolyLR):
    """The DeepLab project's schedule: rate(t) = base * warmup(t) * (1 - t / T) ** power.

    After the warm-up it does not fall below `constant_ending` times the base.
    """

    def get_lr(self) -> list[float]:
        """The rate of each parameter group; after the iteration T it stays at its last value."""
        if self.last_epoch >= self.max_iters:
            return [base_lr * self.constant_ending for base_lr in self.base_lrs]
        rates: list[float] = super().get_lr()
        return rates

    def state_dict(self) -> dict[str, Any]:
        """Only the state that detectron2's `LRMultiplier` saves too.

        Settings such as the number of iterations T come from the config of the resumed run.
        """
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
    """The schedule that SOLVER.LR_SCHEDULER_NAME names, stepped once an iteration.

    Raises:
        UserError: its name, or SOLVER.WARMUP_METHOD, is unknown.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME not in _NAMES:
        known = ", ".join(_NAMES)
        raise UserError(f'SOLVER.LR_SCHEDULER_NAME is "{solver.LR_SCHEDULER_NAME}"; known are {known}.')
    if solver.WARMUP_METHOD not in ("linear", "constant"):
        raise UserError(f'SOLVER.WARMUP_METHOD is "{solver.WARMUP_METHOD}"; it can be "linear" or "constant".')
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return build_detectron2_lr_scheduler(_without_late_steps(cfg), optimizer)
    return PolyLR(
        optimizer,
        solver.MAX_ITER,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_method=solver.WARMUP_METHOD,
        power=solver.POLY_LR_POWER,
        constant_ending=solver.POLY_LR_CONSTANT_ENDING,
    )


def _without_late_steps(cfg: CfgNode) -> CfgNode:
    """A config whose SOLVER.STEPS come before MAX_ITER: detectron2 drops later ones itself, but fails on an equal one."""
    steps = tuple(step for step in cfg.SOLVER.STEPS if step < cfg.SOLVER.MAX_ITER)
    if steps == tuple(cfg.SOLVER.STEPS):
        return cfg
    logger.warning("SOLVER.STEPS %s: those from MAX_ITER %d on have no effect.", cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.STEPS = steps
    return cfg
