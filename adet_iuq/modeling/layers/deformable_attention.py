"""Multi-scale deformable attention in plain torch (arXiv 2010.04159), which never stores the sampled vectors.

In every head each query reads P points on each of L maps, bilinearly. The result is a weighted sum of 4 L P rows of the
table of all values. `embedding_bag` adds the rows up as it reads them, and the gradient of the table is the same sum in
the opposite direction. (Sampling with grid_sample would first write every sampled vector, about 270 MB for an image of
800 x 1333, and keep it for the backward pass.) Row numbers and their weights exist only for some heads of one image at
a time; the backward pass computes them again.

Shapes: B images, S cells of all maps together (map after map, each row by row), Q queries, M heads, D channels of a
head, L maps, P points.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.modeling.layers.chunks import items_at_once

# The bytes that one step over some heads of an image may take, and those of the rows that are copied at a time: as many
# as a CPU's cache holds.
_STEP_BYTES = {"cpu": 32 * 1024**2}
_COPY_BYTES = {"cpu": 2 * 1024**2}
_BYTES_PER_ROW = 16  # bytes that a step keeps for each row that it reads


def deformable_attention(value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of points of all maps, zero outside of them; differentiable once in all three tensors.

    Args:
        value: (B, S, M, D) float32 or float64, the values of all cells.
        sizes: (h, w) of the L maps.
        locations: (B, Q, M, L, P, 2) x, y as shares of a map's width and height: the centre of its cell (i, j) lies at
            ((j + 0.5) / w, (i + 0.5) / h).
        weights: (B, Q, M, L, P), the weights of the points.

    Returns:
        (B, Q, M * D), the heads one after the other.
    """
    flat_sizes = [side for size in sizes for side in size]
    attended: Tensor = _attend(value, flat_sizes, locations, weights)
    return attended.flatten(2)


class _Neighbours(NamedTuple):
    """On one axis, the two cells that each location lies between."""

    cells: Tensor  # (2, K, N) int32; a cell outside is replaced by one inside
    weights: Tensor  # (2, K, N) linear; 0 for a cell outside
    slopes: Tensor  # (2, K, N) derivative of the weights with respect to the location


def _neighbours(locations: Tensor, size: Tensor) -> _Neighbours:
    """The neighbours of `locations` (K, N) in [0, 1] on an axis of `size` (K, 1) cells."""
    position = locations * size - 0.5
    low = position.floor()
    fraction = position - low
    cells = torch.stack([low, low + 1])
    inside = ((cells >= 0) & (cells < size)).to(locations.dtype)
    weights = torch.stack([1 - fraction, fraction]).mul_(inside)
    slopes = inside.mul_(size)
    slopes[0].neg_()
    return _Neighbours(cells.int().clamp_(min=0).minimum(size - 1), weights, slopes)


class _Reading(NamedTuple):
    """The rows of the table (S * M, D) that the N bags of one image read: each query in each of its M heads is a bag.

    A bag reads four rows for each of its K = L * P points. The bags are the last axis, which is long: the loops of
    elementwise kernels run along it.
    """

    rows: Tensor  # (2, 2, K, N) int32, y before x
    vertical: _Neighbours
    horizontal: _Neighbours

    def weights(self, weights: Tensor) -> Tensor:
        """The weights (2, 2, K, N) of all rows, from the weights (K, N) of the points."""
        return (weights * self.vertical.weights)[:, None] * self.horizontal.weights


def _extent(sizes: Sequence[int], device: torch.device) -> Tensor:
    """(L, 2) int32, the sizes h, w, h, w, ... of the maps, on the device: made once, as each copy from the host waits."""
    return torch.tensor(sizes, dtype=torch.int32, device=device).view(-1, 2)


def _reading(extent: Tensor, locations: Tensor) -> _Reading:
    """The rows that one image's queries read; `extent` (L, 2) are the maps' h, w, `locations` (Q, M, L, P, 2)."""
    queries, heads, _, points = locations.shape[:4]
    starts = (extent.prod(1).cumsum(0) - extent.prod(1)).int()
    height, width, start = (one.repeat_interleave(points)[:, None] for one in (*extent.unbind(1), starts))
    x, y = _by_point(locations).unbind(1)
    horizontal, vertical = _neighbours(x, width), _neighbours(y, height)
    cells = (start + vertical.cells * width)[:, None] + horizontal.cells
    head = torch.arange(heads, dtype=torch.int32, device=locations.device).repeat(queries)
    return _Reading(cells.mul_(heads).add_(head), vertical, horizontal)


def _by_point(by_query: Tensor) -> Tensor:
    """(Q, M, L, P, ...) as (L * P, ..., N), N = Q * M."""
    bags = by_query.shape[0] * by_query.shape[1]
    return by_query.reshape(bags, -1).t().contiguous().view(-1, *by_query.shape[4:], bags)


def _by_bag(by_corner: Tensor) -> Tensor:
    """(2, 2, K, N) as (N, 4 K)."""
    return by_corner.flatten(0, 2).t().contiguous()


def _steps(locations: Tensor) -> list[tuple[int, slice]]:
    """The steps of the computation: pairs of an image and a range of its heads."""
    images, queries, heads, levels, points = locations.shape[:5]
    head_bytes = queries * levels * points * 4 * _BYTES_PER_ROW
    step = items_at_once(_STEP_BYTES, locations.device, head_bytes)
    return [(image, slice(head, head + step)) for image in range(images) for head in range(0, heads, step)]


@torch.library.custom_op("adet_iuq::deformable_attention", mutates_args=())
def _attend(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """The sums (B, Q, M, D). This is an operator of its own so that torch.compile treats it as one step."""
    out, extent = value.new_empty(*locations.shape[:3], value.shape[3]), _extent(sizes, value.device)
    for image, heads in _steps(locations):
        reading, table = _reading(extent, locations[image, :, heads]), value[image, :, heads].flatten(0, 1)
        row_weights = _by_bag(reading.weights(_by_point(weights[image, :, heads])))
        read = F.embedding_bag(_by_bag(reading.rows), table, mode="sum", per_sample_weights=row_weights)
        out[image, :, heads] = read.view(len(weights[image]), -1, value.shape[3])
    return out


@_attend.register_fake
def _(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(*locations.shape[:3], value.shape[3])


@torch.library.custom_op("adet_iuq::deformable_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of value, locations and weights."""
    grads = [torch.empty(one.shape, dtype=one.dtype, device=one.device) for one in (value, locations, weights)]
    grad_value, grad_locations, grad_weights = grads
    extent = _extent(sizes, value.device)
    for image, heads in _steps(locations):
        part, bag_grads = value[image, :, heads], grad[image, :, heads].flatten(0, 1)
        reading, point_weights = _reading(extent, locations[image, :, heads]), _by_point(weights[image, :, heads])
        count = part.shape[0] * part.shape[1]
        by_cell = _table_gradient(reading.rows, reading.weights(point_weights), bag_grads, count)
        grad_value[image, :, heads] = by_cell.view(part.shape)
        by_row = _row_weight_gradient(_by_bag(reading.rows), part.flatten(0, 1), bag_grads).t().contiguous()
        by_row = by_row.view(reading.rows.shape)
        # A row's weight is the weight of its point times one factor for each axis.
        vertical, horizontal = reading.vertical, reading.horizontal
        by_line = (by_row * horizontal.weights).sum(1)
        by_column = (by_row * vertical.weights[:, None]).sum(0)
        shape = grad_weights[image, :, heads].shape
        grad_weights[image, :, heads] = (by_line * vertical.weights).sum(0).t().reshape(shape)
        by_x, by_y = (by_column * horizontal.slopes).sum(0), (by_line * vertical.slopes).sum(0)
        by_axis = torch.stack([by_x, by_y]).mul_(point_weights)
        grad_locations[image, :, heads] = by_axis.permute(2, 1, 0).reshape(*shape, 2)
    return grad_value, grad_locations, grad_weights


@_attend_backward.register_fake
def _(
    grad: Tensor, value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(value), torch.empty_like(locations), torch.empty_like(weights)


def _table_gradient(rows: Tensor, weights: Tensor, grads: Tensor, count: int) -> Tensor:
    """The gradient (count, D) of the table: a row gets those (N, D) of the bags that read it; `rows`, `weights` (..., N)."""
    places = rows.flatten().sort()
    starts = torch.searchsorted(places.values, torch.arange(count, dtype=rows.dtype, device=rows.device))
    ordered = weights.flatten().index_select(0, places.indices)
    return F.embedding_bag(places.indices % len(grads), grads, starts, mode="sum", per_sample_weights=ordered)


def _row_weight_gradient(rows: Tensor, table: Tensor, grads: Tensor) -> Tensor:
    """The gradient (N, n) of row weights: products of each bag's gradient (N, D) with the rows (N, n) that it read."""
    result = torch.empty(rows.shape, dtype=table.dtype, device=table.device)
    bag_bytes = rows.shape[1] * table.shape[1] * table.element_size()
    step = items_at_once(_COPY_BYTES, table.device, bag_bytes)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        read = table.index_select(0, part.flatten()).view(*part.shape, -1)
        result[start : start + step] = read.mul_(grads[start : start + step, None]).sum(-1)
    return result


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.sizes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = _attend_backward(grad, value, ctx.sizes, locations, weights)
    return grad_value, None, grad_locations, grad_weights


_attend.register_autograd(_backward, setup_context=_setup_context)


class MSDeformAttn(nn.Module):
    """Deformable attention of queries on L maps, under the published parameter names.

    Args:
        channels: the channels C of queries and values, a multiple of `heads`.
        levels: the number of maps L.
        heads: the number of heads M.
        points: the number of points P that a head reads on each map.
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
        """At the start head m looks into direction m, at distances of 1, 2, ... P cells, with equal weights."""
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

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        value: Tensor,
        sizes: Sequence[tuple[int, int]],
        padding: Tensor | None = None,
    ) -> Tensor:
        """Returns the attended values.

        Args:
            query: (B, Q, C).
            reference: (B or 1, Q, L or 1, 2) x, y as shares of the map, the point from which offsets are counted in cells;
                or (B or 1, Q, L or 1, 4) boxes x, y, w, h, whose centre is that point and whose edge P offsets reach.
            value: (B, S, C).
            sizes: (h, w) of the L maps.
            padding: (B, S) bool, the cells whose projected value is set to zero; None: no cell.

        Returns:
            (B, Q, C), at least float32 even under autocast, because float16 cannot tell the cells of a large map apart.
        """
        with torch.autocast(query.device.type, enabled=False):
            query, value = query.to(self.value_proj.weight.dtype), value.to(self.value_proj.weight.dtype)
            shape = (*query.shape[:2], self.heads, self.levels, self.points)
            weights = self.attention_weights(query).view(*shape[:3], -1).softmax(-1).view(shape)
            values = self.value_proj(value)
            if padding is not None:
                values = values.masked_fill(padding[..., None], 0.0)
            locations = reference[:, :, None, :, None, :2] + self._offsets(query, reference, sizes)
            attended = deformable_attention(values.unflatten(-1, (self.heads, -1)), sizes, locations, weights)
            projected: Tensor = self.output_proj(attended)
        return projected

    def _offsets(self, query: Tensor, reference: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """The points' locations (B, Q, M, L, P, 2) as shares of the map; `forward` describes the arguments."""
        offsets = self.sampling_offsets(query).view(*query.shape[:2], self.heads, self.levels, self.points, 2)
        if reference.shape[-1] == 4:
            shares: Tensor = offsets / self.points * reference[:, :, None, :, None, 2:] / 2
            return shares
        # As one row, and not broadcast over points: a division along three axes of few numbers takes ten times as long.
        width_height = query.new_tensor([(w, h) for h, w in sizes for _ in range(self.points)])
        scaled: Tensor = offsets.flatten(3) / width_height.flatten()
        return scaled.view_as(offsets)
