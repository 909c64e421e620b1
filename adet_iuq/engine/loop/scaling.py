"""Runs a recipe on another number of processes than it was made for."""

import logging

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from adet_iuq.engine.meta_arch import find_segmenter
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)


def micro_batches(cfg: CfgNode, world_size: int) -> int:
    """The number of micro-batches of a step: a process's share of IMS_PER_BATCH, divided by SOLVER.IMS_PER_PROCESS.

    The effective batch, the learning rate and the schedule are the same on any number of processes.

    Raises:
        UserError: the share is not divisible.
    """
    total, limit = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.IMS_PER_PROCESS
    # If the share is uneven, the loader refuses it.
    share = total // world_size
    if limit <= 0 or share <= limit or total % world_size:
        return 1
    if share % limit:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {total} gives each of {world_size} process(es) {share} images a step, which do not make "
            f"equal micro-batches of SOLVER.IMS_PER_PROCESS {limit}. Choose a divisor of {share}, or 0 to take all at once."
        )
    count: int = share // limit
    logger.info(
        "Gradient accumulation: each step runs %d micro-batches of %d on each of %d process(es), %d in all, as "
        "SOLVER.IMS_PER_BATCH says; learning rate and schedule stay. SOLVER.IMS_PER_PROCESS 0 would take %d at once.",
        count,
        limit,
        world_size,
        total,
        share,
    )
    caveat = find_segmenter(cfg).accumulation_caveat(cfg)
    if caveat:
        logger.warning(caveat)
    return count


def scaled_to(cfg: CfgNode, world_size: int) -> CfgNode:
    """The alternative: a config with SOLVER.REFERENCE_WORLD_SIZE whose batch, rate and schedule are scaled to `world_size`.

    The rule is detectron2's: each process keeps its batch, the learning rate is proportional to the whole batch, and
    all counts of iterations (MAX_ITER, STEPS, WARMUP_ITERS, periods) are inversely proportional to it. START_ITER and
    RAMP_ITERS of the inter-scene loss follow the same rule, unless they are shares of MAX_ITER.

    Returns:
        A new config; the given one if REFERENCE_WORLD_SIZE is 0 or `world_size`.

    Raises:
        UserError: IMS_PER_BATCH is no multiple of REFERENCE_WORLD_SIZE.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference in (0, world_size):
        return cfg
    if cfg.SOLVER.IMS_PER_BATCH % reference:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is no multiple of SOLVER.REFERENCE_WORLD_SIZE {reference}."
        )
    cfg = DefaultTrainer.auto_scale_workers(cfg, world_size)
    frozen = cfg.is_frozen()
    cfg.defrost()
    inter = cfg.MODEL.IUQ.INTER
    for name in ("START_ITER", "RAMP_ITERS"):
        if inter[name] >= 0:
            inter[name] = round(inter[name] * reference / world_size)
            logger.info(
                "Scaled from %d to %d processes: MODEL.IUQ.INTER.%s %d.", reference, world_size, name, inter[name]
            )
    if frozen:
        cfg.freeze()
    return cfg
