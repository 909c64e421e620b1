"""Puts a training loader at the batch where a run begins."""

import logging
from collections.abc import Iterable
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from adet_iuq.data import TrainLoader
from adet_iuq.engine.loop.scaling import micro_batches
from adet_iuq.engine.meta_arch import find_segmenter

logger = logging.getLogger(__name__)


def put_at_start(loader: Iterable[list[dict[str, Any]]], cfg: CfgNode, seed: int, iteration: int) -> None:
    """Tells a loader which iteration's batch comes first, and how a step of this run takes its images.

    Args:
        loader: the loader of `Trainer.build_train_loader`. One that is no `TrainLoader` (detectron2's, for example)
            cannot be told: it must itself give every rank its share of the images that the segmenter reads in a step.
        cfg: the whole config.
        seed: the seed of all samples, the same on all ranks.
        iteration: the first iteration.

    Raises:
        UserError: the ranks cannot share the images evenly.
    """
    if isinstance(loader, TrainLoader):
        images = find_segmenter(cfg).images_per_batch(cfg)
        accumulated = micro_batches(cfg, comm.get_world_size())
        loader.start_at(seed=seed, iteration=iteration, images_per_batch=images, micro_batches=accumulated)
        return
    logger.warning(
        "The training loader is a %s, none of adet_iuq.data.build_train_loader: its position is not restored by --resume, "
        "so that a resumed run sees other samples than an unbroken one.",
        type(loader).__name__,
    )
