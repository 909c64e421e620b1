"""The training steps of a small segmenter on one rank of several, and how far several ranks are from one process."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from adet_iuq.iuq import world_size
from helpers.scenes import discs

# Instances of the four images of each step; rank r of two has the images r and r + 2, and at times no instance.
STEPS = [(3, 1, 2, 5), (4, 0, 1, 0)]

Steps = list[tuple[dict[str, Any], dict[str, Any]]]


def train_on_rank(model: Any, rank: int, ranks: int) -> Steps:
    """Losses of this rank and averaged gradients of every step; the weights stay as they are."""
    model.train()
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if world_size() > 1 else model
    done = []
    for step, counts in enumerate(STEPS):
        batch = [discs(64, 64, counts[image], seed=10 * step + image) for image in range(rank, 4, ranks)]
        model.zero_grad()
        with EventStorage():
            losses = wrapped(batch)
        torch.stack(list(losses.values())).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        done.append(({name: loss.detach() for name, loss in losses.items()}, gradients))
    return done


def deviations(two: Sequence[Steps], one: Steps) -> dict[str, float]:
    """The largest deviation of each mean loss, and of the gradients relative to the largest of their parameter.

    Args:
        two: of the two ranks.
        one: of a single process with the same images.
    """
    worst: dict[str, float] = {}
    for first, second, alone in zip(*two, one, strict=True):
        for name, loss in alone[0].items():
            apart = float(((first[0][name] + second[0][name]) / 2 - loss).abs())
            worst[name] = max(worst.get(name, 0.0), apart)
        for name, gradient in alone[1].items():
            apart = float((first[1][name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-2))
            worst["gradient"] = max(worst.get("gradient", 0.0), apart)
    return worst
