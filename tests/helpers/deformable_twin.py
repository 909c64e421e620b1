"""The straightforward twin of deformable attention, a grid_sample for each map, and random inputs for both."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def grid_sample_attention(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """The twin: sample every level with grid_sample, stack, weigh, sum. Shapes as in `deformable_attention`."""
    images, _, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    grids = 2 * locations - 1
    sampled = []
    for level, (part, (h, w)) in enumerate(zip(value.split([h * w for h, w in sizes], dim=1), sizes, strict=True)):
        maps = part.flatten(2).transpose(1, 2).reshape(images * heads, channels, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    per_head = weights.transpose(1, 2).reshape(images * heads, 1, queries, levels * points)
    summed = (torch.stack(sampled, dim=-2).flatten(-2) * per_head).sum(-1)
    return summed.view(images, heads * channels, queries).transpose(1, 2).contiguous()


def random_inputs(
    sizes: Sequence[tuple[int, int]],
    images: int,
    heads: int,
    channels: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Value, locations (some of them outside) and weights that require gradients; as many queries as cells."""
    generator = torch.Generator().manual_seed(0)
    cells, points = sum(h * w for h, w in sizes), 4
    value = torch.randn(images, cells, heads, channels, generator=generator)
    shape = (images, cells, heads, len(sizes), points)
    centres = torch.rand(images, cells, 1, 1, 1, 2, generator=generator)
    extent = torch.tensor([(w, h) for h, w in sizes])[:, None]
    locations = centres + torch.randn(*shape, 2, generator=generator) * 2 / extent
    weights = torch.rand(*shape[:3], shape[3] * points, generator=generator).softmax(-1).view(shape)
    return [tensor.to(device, dtype).requires_grad_() for tensor in (value, locations, weights)]
