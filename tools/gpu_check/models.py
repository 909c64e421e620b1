"""The segmenters that the stages measure: published sizes on the device, the small recipes in a dry run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from benchmark_segmenter import Candidate, candidates, fill_memory
from benchmarking import synthetic_input
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

import adet_iuq.modeling  # noqa: F401  registers the segmenters
from adet_iuq.config import load_config
from adet_iuq.config.num_classes import all_num_classes
from adet_iuq.engine.loop.step import TrainStep
from adet_iuq.modeling import IUQMetaArch

from .stage import Settings

# Of each segmenter the recipe with the method, and the small one.
RECIPES = {
    "CondInst": ("CondInst/R50_1x_iuq.yaml", "CondInst/R18_overfit_iuq.yaml"),
    "SOLOv2": ("SOLOv2/R50_1x_iuq.yaml", "SOLOv2/R18_overfit_iuq.yaml"),
    "SOTR": ("SOTR/R50_iuq.yaml", "SOTR/R18_overfit_iuq.yaml"),
    "Mask2Former": ("Mask2Former/R50_50ep_iuq.yaml", "Mask2Former/R18_overfit_iuq.yaml"),
}
FULL_SIZE, TINY_SIZE = (800, 1333), (64, 96)
PIXELS, TINY_PIXELS = 100_000, 500
# For random weights in float16: with frozen norms, which suit trained weights, activations grow from block to block.
LIVE_NORMS = ("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0")


def config(segmenter: str, settings: Settings, *overrides: Any) -> CfgNode:
    """The config of a segmenter on random weights, with a full-size memory."""
    pixels = settings.pick(PIXELS, TINY_PIXELS)
    words: list[Any] = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", settings.device, "MODEL.IUQ.MEMORY.CAPACITY", pixels]
    recipe = settings.pick(*RECIPES[segmenter])
    return load_config(f"configs/{recipe}", [*words, *overrides]).cfg


def batch(cfg: CfgNode, size: tuple[int, int], instances: int, images: int = 2) -> list[dict[str, Any]]:
    """Random images with annotations, as the loader yields them."""
    classes = min(all_num_classes(cfg))
    return [synthetic_input(size, instances, classes, seed) for seed in range(images)]


@dataclass
class Stepper:
    """A segmenter with one setting of the method, and the step that the trainer takes with it."""

    candidate: Candidate
    step: TrainStep

    @property
    def setting(self) -> str:
        return self.candidate.setting

    def __call__(self) -> None:
        """One step, with the losses read back as the trainer reads them."""
        self.step.run_step()


@contextmanager
def steppers(
    cfg: CfgNode, names: Sequence[str], inputs: list[dict[str, Any]], dtype: torch.dtype | None
) -> Iterator[list[Stepper]]:
    """The segmenter with each of the settings `names` of benchmark_segmenter.py, ready to step: the memory is full.

    Args:
        cfg: the config.
        names: the settings.
        inputs: the batch of every step; paired views read half of its images.
        dtype: the dtype of autocast; None: float32.
    """
    with EventStorage():
        found = [
            Stepper(candidate, train_step(candidate.model, candidate.optimizer, inputs[: candidate.images], cfg, dtype))
            for candidate in candidates(cfg, list(names), len(inputs), None)
        ]
        for one in found:
            one()
            fill_memory(one.candidate)
        yield found


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: list[dict[str, Any]],
    cfg: CfgNode,
    dtype: torch.dtype | None,
) -> TrainStep:
    """The trainer's step on one batch, at an iteration at which the method has its full strength."""
    step = TrainStep(model, optimizer, torch.device(cfg.MODEL.DEVICE).type, dtype)
    step.data_loader = [inputs]
    if isinstance(model, IUQMetaArch):
        inter = model.iuq_criterion.inter
        step.iter = inter.start_iter + inter.ramp_iters + 1
    return step


def logged(name: str) -> float | None:
    """The latest value of a scalar that a step has logged; None if there is none."""
    found = get_event_storage().latest().get(name)
    return None if found is None else float(found[0])
