"""Random points on masks (arXiv 1912.08193), instead of all pixels.

Points are x, y in [0, 1] of the padded network input, the frame (docs/parity/mask2former.md, "Points"). A map of n cells
an axis has the centre of cell i at (i + 0.5) / n; it is linear between cells and zero outside.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# A function of (rows, points per row, device) that returns (rows, points, 2) float32 in [0, 1).
PointSource = Callable[[int, int, torch.device], Tensor]

_CHUNK_BYTES = 64 * 1024**2  # bytes of candidates that exist at one time
_CANDIDATE_BYTES = 32  # bytes of a candidate: its position twice, its certainty, and what sorts them


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
        points: (N or 1, P, 2), the positions.
        frame: (H, W) of the frame in pixels.
        rows: (N,) long, which mask is read; None: each once, N = K.
    """
    count, height, width = masks.shape
    rows = torch.arange(count, device=masks.device) if rows is None else rows
    first, flat = (rows * height * width)[:, None], masks.flatten()
    x, y = points[..., 0] * frame[1] - 0.5, points[..., 1] * frame[0] - 0.5
    sampled = torch.zeros(len(rows), points.shape[1], device=masks.device)
    for row, row_weight in _neighbours(y, height):
        for column, column_weight in _neighbours(x, width):
            sampled += flat[first + (row * width + column)] * (row_weight * column_weight)
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
    step = max(1, _CHUNK_BYTES // (_CANDIDATE_BYTES * max(1, int(count * oversample_ratio))))
    chunks = logits.split(step)
    valids = [None] * len(chunks) if valid is None else valid.split(step)
    ratios = (oversample_ratio, importance_ratio)
    return torch.cat([_chunk_points(*chunk, count, ratios, source) for chunk in zip(chunks, valids, strict=True)])


def _chunk_points(
    logits: Tensor, valid: Tensor | None, count: int, ratios: tuple[float, float], source: PointSource
) -> Tensor:
    """Does so for all masks at once; `ratios` are those of candidates and of uncertain points."""
    rows, device = len(logits), logits.device
    candidates = source(rows, int(count * ratios[0]), device)
    certainty = sample_maps(logits[:, None], candidates)[:, 0].abs()
    if valid is not None:
        certainty = torch.where(avoids_invalid(valid, candidates), certainty, torch.inf)
    kept = int(ratios[1] * count)
    chosen = certainty.topk(kept, dim=1, largest=False, sorted=False).indices
    points = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat([points, source(rows, count - kept, device)], dim=1) if kept < count else points


def avoids_invalid(valid: Tensor, points: Tensor) -> Tensor:
    """(N, P) bool: whether no cell that a point of (N, P, 2) is interpolated from has 0 in `valid`, (N, h, w) float."""
    return sample_maps(1 - valid[:, None], points)[:, 0] < 0.001
