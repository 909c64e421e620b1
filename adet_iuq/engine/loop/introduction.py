"""Describes in a few lines, at the start of a run, what is about to be trained."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from torch import nn

from adet_iuq.data import TrainLoader
from adet_iuq.data.annotations.digest_cache import digest_of
from adet_iuq.data.registration.datasets import source_of
from adet_iuq.engine.loop.step import autocast_dtype


def introduction(cfg: CfgNode, model: nn.Module, loader: Any, micro_batches: int, start_iter: int) -> str:
    """Model, data, device, steps and folder of a run.

    Args:
        cfg: the config of the run, whose data sets are registered and checked.
        model: the model with its weights.
        loader: the training loader; if it is a `TrainLoader`, it knows how many images it uses.
        micro_batches: the number of micro-batches of a step on each process.
        start_iter: the first iteration, which is above 0 in a resumed run.

    Raises:
        UserError: a data set cannot be read.
    """
    number, trained = parameter_counts(model)
    share = "all of them trained" if trained == number else f"{trained:,} of them trained"
    used = f", {loader.num_images:,} images used" if isinstance(loader, TrainLoader) else ""
    tested = ", ".join(_counted(name) for name in cfg.DATASETS.TEST) or "nothing"
    steps = f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images"
    ranks = comm.get_world_size()
    begun = f", resumed at iteration {start_iter}" if start_iter else ""
    parts = f" in {micro_batches} micro-batches" if micro_batches > 1 else ""
    return "\n".join(
        [
            f"{'Resuming' if start_iter else 'Training'} {type(model).__name__}: {number:,} parameters, {share}",
            f"  data     {', '.join(_counted(name) for name in cfg.DATASETS.TRAIN)}{used}; evaluated on {tested}",
            f"  device   {_device(cfg)}, {_precision(cfg)}, {ranks} process{'es' * (ranks > 1)}",
            f"  steps    {steps}{parts}{begun}",
            f"  output   {cfg.OUTPUT_DIR} (all details: log.txt, config.yaml)",
        ]
    )


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """How many parameters a model has, and how many of them are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)


def _counted(name: str) -> str:
    """A data set's name with its number of images, which is taken from the facts that are cached about its file."""
    source = source_of(name)
    if source is None or MetadataCatalog.get(name).get("evaluator_type") != "coco":
        return name
    json_file, image_root, stock = source
    return f"{name} ({digest_of(json_file, image_root, stock=stock).digest.report.images:,} images)"


def _device(cfg: CfgNode) -> str:
    device = torch.device(cfg.MODEL.DEVICE)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _precision(cfg: CfgNode) -> str:
    dtype = autocast_dtype(cfg)
    return "float32" if dtype is None else f"mixed precision ({str(dtype).removeprefix('torch.')})"
