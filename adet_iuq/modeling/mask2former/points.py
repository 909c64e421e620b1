"""Random points on masks (arXiv 1912.08193), instead of all pixels.

Points are x, y in [0, 1] of the padded network input, the frame (docs/parity/mask2former.md, "Points"). A map of n cells
an axis has the centre of cell i at (i + 0.5) / n; it is linear between cells and zero outside.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.layers import items_at_once

# A function of (rows, points per row, device) that returns (rows, points, 2) float32 in [0, 1).
PointSource = Callable[[int, int, torch.device], Tensor]

# Bytes that exist at one time while points are drawn or masks are read; on a CPU as many as its cache holds.
_CHUNK_BYTES = {"cpu": 8 * 1024**2}
_CANDIDATE_BYTES = 32  # of a candidate: its position twice, its certainty, and what sorts them
_OWN_BYTES = 64  # of a mask's own point: its cell, the bit, and its pixels and weights along both axes
_SHARED_BYTES = 20  # of a point that all masks share: its cell and the bit of each mask


def uniform_points(rows: int, count: int, device: torch.device) -> Tensor:
    """Points from the device's global generator of torch, which the run's seed determines."""
    return torch.rand(rows, count, 2, device=device)


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Maps (N, C, h, w) float at points (N, P, 2): (N, C, P)."""
    if maps.numel() == 0:  # grid_sample refuses this
        return maps.flatten(2).sum(2, keepdim=True).expand(-1, -1, points.shape[1])
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[..., 0]


def sample_cells(cells: Tensor, size: tuple[int, int], points: Tensor) -> Tensor:
    """Does the same for maps whose channels lie side by side: `embedding_bag` adds up whole rows, many times as fast.

    Args:
        cells: (N, h * w, C) float, the cells of the maps, row by row.
        size: (h, w).
        points: (N, P, 2), the positions.

    Returns:
        (N, P, C).
    """
    x, y = points[..., 0] * size[1] - 0.5, points[..., 1] * size[0] - 0.5
    first = size[0] * size[1] * torch.arange(len(cells), device=cells.device)[:, None]
    corners = [
        (first + row * size[1] + column, row_weight * column_weight)
        for row, row_weight in _neighbours(y, size[0])
        for column, column_weight in _neighbours(x, size[1])
    ]
    rows, weights = (torch.stack(parts, dim=2).flatten(0, 1) for parts in zip(*corners, strict=True))
    sampled = F.embedding_bag(rows, cells.flatten(0, 1), mode="sum", per_sample_weights=weights)
    return sampled.view(*points.shape[:2], -1)


def sample_bit_masks(masks: Tensor, points: Tensor, frame: tuple[int, int], rows: Tensor | None = None) -> Tensor:
    """Reads masks at points without copying the masks: (N, P) float32.

    Args:
        masks: (K, H, W) bool, the frame or a part of it from the top left corner on; everything outside is zero.
        points: (N, P, 2), the positions; or (1, P, 2), which all masks share.
        frame: (H, W) of the frame in pixels.
        rows: (N,) long, which mask is read; None: each once, N = K.
    """
    rows = torch.arange(len(masks), device=masks.device) if rows is None else rows
    shared = len(points) == 1
    step = items_at_once(_CHUNK_BYTES, masks.device, (_SHARED_BYTES if shared else _OWN_BYTES) * points.shape[1])
    chunks = rows.split(step)
    places = [points] * len(chunks) if shared else points.split(step)
    return torch.cat([_read_bits(masks, *chunk, frame) for chunk in zip(chunks, places, strict=True)])


def _read_bits(masks: Tensor, rows: Tensor, points: Tensor, frame: tuple[int, int]) -> Tensor:
    """Reads `rows` of the masks, all at once; the arguments are those of `sample_bit_masks`."""
    height, width = masks.shape[1:]
    first, flat = (rows * height * width)[:, None], masks.flatten()
    x, y = points[..., 0] * frame[1] - 0.5, points[..., 1] * frame[0] - 0.5
    sampled = torch.zeros(len(rows), points.shape[1], device=masks.device)
    for row, row_weight in _neighbours(y, height):
        for column, column_weight in _neighbours(x, width):
            cells = first + (row * width + column)
            sampled += flat.index_select(0, cells.flatten()).view_as(cells) * (row_weight * column_weight)
    return sampled


def _neighbours(position: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The two pixels around each position on an axis, clamped to the axis, and their weights, which are zero outside."""
    low = position.floor()
    pairs = [(low, low + 1 - position), (low + 1, position - low)]
    return [
        (pixel.clamp(0, max(size - 1, 0)).long(), torch.where((pixel >= 0) & (pixel < size), weight, 0.0))
        for pixel, weight in pairs
    ]


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    count: int,
    *,
    oversample_ratio: float,
    importance_ratio: float,
    source: PointSource,
    valid: Tensor | None = None,
) -> Tensor:
    """Points where a mask is least certain, and some others anywhere.

    Args:
        logits: (N, h, w), the masks' logits.
        count: the number of points of a mask.
        oversample_ratio: the number of candidates that are drawn, in multiples of `count`.
        importance_ratio: the share of the points that are candidates with logits nearest to zero; the rest is uniform.
        source: the function that draws points.
        valid: (N, h, w) float, 1 or 0; candidates that touch a cell with 0 come last.

    Returns:
        (N, count, 2), the positions.
    """
    step = items_at_once(_CHUNK_BYTES, logits.device, _CANDIDATE_BYTES * int(count * oversample_ratio))
    chunks = logits.split(step)
    valids = [None] * len(chunks) if valid is None else valid.split(step)
    return torch.cat(
        [
            _points_of_chunk(chunk, part, count, oversample_ratio, importance_ratio, source)
            for chunk, part in zip(chunks, valids, strict=True)
        ]
    )


def _points_of_chunk(
    logits: Tensor,
    valid: Tensor | None,
    count: int,
    oversample_ratio: float,
    importance_ratio: float,
    source: PointSource,
) -> Tensor:
    """The same for so few masks that the candidates of all of them fit into memory."""
    rows, device = len(logits), logits.device
    candidates = source(rows, int(count * oversample_ratio), device)
    certainty = sample_maps(logits[:, None], candidates)[:, 0].abs()
    if valid is not None:
        certainty = torch.where(avoids_invalid(valid, candidates), certainty, torch.inf)
    kept = int(importance_ratio * count)
    chosen = certainty.topk(kept, dim=1, largest=False, sorted=False).indices
    points = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat([points, source(rows, count - kept, device)], dim=1) if kept < count else points


def avoids_invalid(valid: Tensor, points: Tensor) -> Tensor:
    """(N, P) bool: whether no cell that a point of (N, P, 2) is interpolated from has 0 in `valid`, (N, h, w) float."""
    return sample_maps(1 - valid[:, None], points)[:, 0] < 0.001
