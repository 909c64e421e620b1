"""Scenes of originals and views for the tests of the two terms."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from adet_iuq.iuq import CropFlip, Scene, keyed_generator

SIZE, STRIDE = (64, 96), 8


def transforms_of(count: int, seed: int = 0) -> list[CropFlip]:
    return [CropFlip.sample(keyed_generator(seed, f"{b}"), SIZE, stride=STRIDE, offset=4) for b in range(count)]


def paired(make_scene: Callable[..., Scene], instances: list[int], **options: Any) -> Scene:
    """Random views: the second half counts as the transforms of the first (same image ids)."""
    scene = make_scene(instances * 2, **options)
    count = len(instances)
    return replace(scene, image_ids=scene.image_ids[:count].repeat(2), sample_seeds=list(range(count)) * 2)


def gradients_of(scene: Scene, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute gradient by image: of the features, and of the queries' embeddings."""
    features, embeddings = torch.autograd.grad(loss, [scene.features, scene.queries.embeddings])
    by_image = torch.zeros(len(scene)).index_add(0, scene.queries.image_index, embeddings.abs().sum(dim=1))
    return features.abs().sum(dim=(1, 2, 3)), by_image
