"""Synthetic scenes, a toy segmenter, and the benchmark's retrieval functions."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from adet_iuq.iuq import Pixels, Queries, Scene

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def benchmark() -> ModuleType:
    """tools/benchmark_inter_loss.py, for its two retrieval functions."""
    spec = importlib.util.spec_from_file_location("benchmark_inter_loss", ROOT / "tools" / "benchmark_inter_loss.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class DotSegmenter:
    """Dot-product retrieval; the mask loss is the mean of (p - target)^2 over valid cells of each query's own map."""

    bytes_per_pair = 0

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits."""
        return queries.embeddings @ pixels.features.t()

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """(Q, Hf, Wf) logits."""
        return torch.einsum("qd,qdhw->qhw", queries.embeddings, maps[queries.image_index])

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """Squared error against the masks at the supervised pixels."""
        first = int(scene.offset)
        errors = []
        for n in range(len(scene.queries)):
            image = int(scene.queries.image_index[n])
            mask = scene.masks[image][int(scene.queries.target_index[n]), first :: scene.stride, first :: scene.stride]
            target = logits.new_zeros(logits.shape[1:])
            rows, columns = min(mask.shape[0], target.shape[0]), min(mask.shape[1], target.shape[1])
            target[:rows, :columns] = mask[:rows, :columns].to(target)
            errors.append((logits[n].sigmoid() - target)[valid[image]].square().sum())
        return (torch.stack(errors) if errors else logits).sum() / valid.sum().clamp(min=1)


@pytest.fixture
def segmenter() -> DotSegmenter:
    """A segmenter that knows nothing of detectron2."""
    return DotSegmenter()


def _rectangles(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Random rectangles as masks (count, H, W)."""
    masks = torch.zeros(count, *size, dtype=torch.bool)
    for mask in masks:
        y, x = (int(torch.randint(0, side // 2, (), generator=generator)) for side in size)
        mask[y : y + size[0] // 2, x : x + size[1] // 2] = True
    return masks


@pytest.fixture
def make_scene() -> Callable[..., Scene]:
    """Builds a random scene; every instance has `queries_each` queries. Features and embeddings are leaves."""

    def make(
        instances: list[int],
        *,
        size: tuple[int, int] = (64, 96),
        stride: int = 8,
        offset: float = 4,
        dim: int = 4,
        queries_each: int = 2,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Scene:
        generator = torch.Generator().manual_seed(seed)
        images = len(instances)
        image_index = torch.arange(images).repeat_interleave(torch.tensor(instances) * queries_each)
        target_index = torch.cat([torch.arange(count).repeat_interleave(queries_each) for count in instances])
        embeddings = torch.randn(len(image_index), dim, generator=generator).to(dtype).requires_grad_()
        features = torch.randn(images, dim, size[0] // stride, size[1] // stride, generator=generator).to(dtype)
        return Scene(
            queries=Queries(embeddings, image_index, target_index),
            features=features.requires_grad_(),
            stride=stride,
            offset=offset,
            masks=[_rectangles(count, size, generator) for count in instances],
            image_ids=100 + torch.arange(images),
            image_sizes=[size] * images,
            sample_seeds=[1000 + image for image in range(images)],
            sample_indices=list(range(images)),
        )

    return make
