"""Turns predictions into one image's results (docs/parity/sparseinst.md, "Inference"). n results, (Hp, Wp) padded input."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]
CHUNK_BYTES = 32 * 1024**2  # bytes of enlarged masks that exist at one time


def class_scores(class_logits: Tensor, objectness: Tensor) -> tuple[Tensor, Tensor]:
    """Score (the root of class times objectness) and class, (N,) each, of queries, from logits (N, C) and (N,)."""
    probability, label = class_logits.sigmoid().max(-1)
    return (probability * objectness.sigmoid()).sqrt(), label


def maskness(masks: Tensor, threshold: float) -> Tensor:
    """(n,) mean probability of the pixels of masks (n, h, w) above the threshold; 0 for an empty mask."""
    inside = masks > threshold
    return (masks * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)


def binary_masks(masks: Tensor, padded: Size, image: Size, output: Size, threshold: float) -> Iterator[Tensor]:
    """Binary masks: probabilities (n, Hp / 4, Wp / 4) enlarged to the padded input, cut to the image, resized to the output.

    Args:
        masks: the probabilities, between 0 and 1.
        padded: (height, width) of the padded input.
        image: (height, width) of the image in it.
        output: (height, width) of the output.
        threshold: a pixel belongs to the mask if its probability is above it.

    Yields:
        (a few, height, width) bool.
    """
    pixels = max(padded[0] * padded[1], output[0] * output[1])
    for part in masks[:, None].split(max(1, CHUNK_BYTES // (4 * pixels))):
        if len(part):
            full = _resized(part, padded)[:, :, : image[0], : image[1]]
            yield _resized(full, output)[:, 0] > threshold


def _resized(maps: Tensor, size: Size) -> Tensor:
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def best(scores: Tensor, count: int) -> Tensor:
    """The positions of the best `count` of scores (n,), in their order; all positions if there are no more."""
    kept = scores.topk(min(count, len(scores))).indices
    return torch.sort(kept).values
