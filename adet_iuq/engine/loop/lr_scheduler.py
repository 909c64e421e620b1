"""Learning-rate schedules: detectron2's own (steps, cosine) and the polynomial one of the paper's section 4.1."""

import logging

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from fvcore.common.param_scheduler import ParamScheduler

from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

_DETECTRON2_NAMES = ("WarmupMultiStepLR", "WarmupCosineLR")


class WarmupPoly(ParamScheduler):
    """Multiplier of the base learning rate: warmup(t) * (1 - t / T) ** power, not below `constant_ending`.

    As detectron2's DeepLab project (and Mask2Former) has it: the floor is a share of the base learning rate and holds
    once the warmup is over.
    """

    def __init__(
        self,
        max_iter: int,
        power: float,
        constant_ending: float,
        *,
        warmup_iters: int,
        warmup_factor: float,
        warmup_method: str,
    ) -> None:
        if warmup_method not in ("linear", "constant"):
            raise UserError(f'SOLVER.WARMUP_METHOD is "{warmup_method}"; it can be "linear" or "constant".')
        self.max_iter, self.power, self.constant_ending = max_iter, power, constant_ending
        self.warmup_iters, self.warmup_factor, self.warmup_method = warmup_iters, warmup_factor, warmup_method

    def __call__(self, where: float) -> float:
        """The multiplier at `where` = t / T in [0, 1]."""
        warmup = self._warmup(where * self.max_iter)
        decay = max(1.0 - where, 0.0) ** self.power
        if warmup == 1.0:
            decay = max(decay, self.constant_ending)
        return float(warmup * decay)

    def _warmup(self, iteration: float) -> float:
        if iteration >= self.warmup_iters:
            return 1.0
        if self.warmup_method == "constant":
            return self.warmup_factor
        share = iteration / self.warmup_iters
        return self.warmup_factor * (1 - share) + share


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """The schedule that SOLVER.LR_SCHEDULER_NAME names, stepped once an iteration.

    Raises:
        UserError: the name is unknown.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME in _DETECTRON2_NAMES:
        return build_detectron2_lr_scheduler(_without_late_steps(cfg), optimizer)
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        known = ", ".join(("WarmupPolyLR", *_DETECTRON2_NAMES))
        raise UserError(f'SOLVER.LR_SCHEDULER_NAME is "{solver.LR_SCHEDULER_NAME}"; known are {known}.')
    multiplier = WarmupPoly(
        solver.MAX_ITER,
        solver.POLY_LR_POWER,
        solver.POLY_LR_CONSTANT_ENDING,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_method=solver.WARMUP_METHOD,
    )
    return LRMultiplier(optimizer, multiplier, max_iter=solver.MAX_ITER)


def _without_late_steps(cfg: CfgNode) -> CfgNode:
    """A config whose SOLVER.STEPS come before MAX_ITER: detectron2 drops later ones itself, but trips over an equal one."""
    steps = tuple(step for step in cfg.SOLVER.STEPS if step < cfg.SOLVER.MAX_ITER)
    if steps == tuple(cfg.SOLVER.STEPS):
        return cfg
    logger.warning("SOLVER.STEPS %s: those from MAX_ITER %d on have no effect.", cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.STEPS = steps
    return cfg
