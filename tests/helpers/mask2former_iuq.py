"""MaskFormerIUQ's recipe from the first iteration on, two images to train it on, and a step of training."""

from typing import Any

from detectron2.utils.events import EventStorage
from torch import Tensor

from helpers.scenes import discs

IUQ = ("Mask2Former/R50_50ep_iuq.yaml", "MODEL.IUQ.INTER.START_ITER", "0", "MODEL.IUQ.INTER.RAMP_ITERS", "0")


def train_step(model: Any, inputs: list[dict[str, Any]], times: int = 1) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Losses of the last of so many forward passes, and what was logged."""
    with EventStorage() as storage:
        for _ in range(times):
            losses = model(inputs)
        return losses, {name: value for name, (value, _) in storage.latest().items()}


def two_images() -> list[dict[str, Any]]:
    """Two training inputs of different size."""
    return [discs(64, 96, 4, seed=1), discs(96, 64, 3, seed=2)]
