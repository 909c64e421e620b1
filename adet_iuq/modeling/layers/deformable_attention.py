"""Multi-scale deformable attention in plain torch (arXiv 2010.04159), without a map of what was sampled.

Every query of every head reads P points on each of L maps, bilinearly. That is a weighted sum of 4 L P rows of the table
of all values: one `embedding_bag`, which adds the rows up as it reads them. (Sampling with grid_sample writes every
sampled vector first, about 270 MB for one image of 800 x 1333.)

Shapes: B images, S cells of all maps together (map after map, each row by row), Q queries, M heads, D channels of a
head, L maps, P points.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def deformable_attention(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums of points of all maps, zero outside them; differentiable in all three tensors.

    Args:
        value: (B, S, M, D) float32 or float64.
        sizes: (h, w) of the L maps.
        locations: (B, Q, M, L, P, 2) x, y as shares of a map's width and height: the centre of its cell (i, j) lies at
            ((j + 0.5) / w, (i + 0.5) / h).
        weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M * D).
    """
    images, cells, heads, channels = value.shape
    queries = locations.shape[1]
    device = value.device
    widths, heights = (torch.tensor(axis, device=device) for axis in ([w for _, w in sizes], [h for h, _ in sizes]))
    starts = torch.tensor([0, *(h * w for h, w in sizes[:-1])], device=device).cumsum(0)
    columns, column_weights = _neighbours(locations[..., 0], widths[:, None])
    rows, row_weights = _neighbours(locations[..., 1], heights[:, None])
    # Row (b, m, s) of the table holds the value of head m in cell s of image b.
    table = value.transpose(1, 2).reshape(images * heads * cells, channels)
    first = torch.arange(images * heads, device=device).view(images, 1, heads, 1, 1, 1) * cells + starts[:, None, None]
    rows = (first + rows * widths[:, None, None]).int()
    index = rows[..., :, None] + columns.int()[..., None, :]
    weight = (weights[..., None] * row_weights)[..., :, None] * column_weights[..., None, :]
    bags = images * queries * heads
    attended = F.embedding_bag(index.view(bags, -1), table, mode="sum", per_sample_weights=weight.view(bags, -1))
    return attended.view(images, queries, heads * channels)


def _neighbours(locations: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The two cells on one axis that a location lies between: numbers (..., 2) long and linear weights (..., 2).

    A cell outside gets the weight 0 and the number of one inside.
    """
    position = locations * size - 0.5
    low = position.detach().floor()
    fraction = position - low
    cells = torch.stack([low, low + 1], dim=-1)
    weights = torch.stack([1 - fraction, fraction], dim=-1)
    inside = (cells >= 0) & (cells < size[..., None])
    return cells.long().clamp(min=0).minimum(size[..., None] - 1), torch.where(inside, weights, 0.0)


class MSDeformAttn(nn.Module):
    """Deformable attention of queries on L maps, under the published parameter names.

    Args:
        channels: C of queries and values, a multiple of `heads`.
        levels: L.
        heads: M.
        points: P.
    """

    def __init__(self, channels: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """At the start head m looks into direction m, 1, 2, ... P cells far, with equal weights."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(-1, 1)
        offsets = (directions[:, None, None] * steps).expand(-1, self.levels, -1, -1)
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """The attended values.

        Args:
            query: (B, Q, C).
            reference: (B or 1, Q, L or 1, 2) x, y as shares of the map, from where the offsets count.
            value: (B, S, C).
            sizes: (h, w) of the L maps.

        Returns:
            (B, Q, C); computed in float32 also under autocast, since cells of a large map do not survive float16.
        """
        with torch.autocast(query.device.type, enabled=False):
            query, value = query.to(self.value_proj.weight.dtype), value.to(self.value_proj.weight.dtype)
            shape = (*query.shape[:2], self.heads, self.levels, self.points)
            extent = query.new_tensor([(w, h) for h, w in sizes])
            offsets = self.sampling_offsets(query).view(*shape, 2) / extent[:, None]
            weights = self.attention_weights(query).view(*shape[:3], -1).softmax(-1).view(shape)
            values = self.value_proj(value).unflatten(-1, (self.heads, -1))
            locations = reference[:, :, None, :, None] + offsets
            attended: Tensor = self.output_proj(deformable_attention(values, sizes, locations, weights))
        return attended
