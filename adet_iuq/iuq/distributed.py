"""Exchange between ranks. Without a process group nothing here exchanges anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

_PIECE_BYTES = 64 * 1024**2  # size of a piece, over all ranks together


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_gather_rows(columns: Sequence[Tensor]) -> list[Tensor]:
    """The rows of all ranks, rank after rank; every rank must call it, also with 0 rows.

    Args:
        columns: tensors (n, ...) with the same n, of any dtypes, on the device that the process group's backend works
            on. n may differ from rank to rank; dtypes and trailing shapes may not.

    Returns:
        The same columns (sum of all n, ...), bit for bit, without gradient. Two collective calls are made: one
        exchanges the sizes, one gathers all columns, packed into bytes and padded to the longest rank.
    """
    columns = [column.detach() for column in columns]
    ranks = world_size()
    if ranks == 1:
        return columns
    packed = torch.cat([_to_bytes(column) for column in columns], dim=1)
    sizes = _exchange_sizes(packed, ranks)
    longest = max(sizes)
    if longest == 0:
        return columns
    padded = packed.new_zeros(longest, packed.shape[1])
    padded[: len(packed)] = packed
    gathered = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(gathered, padded)
    rows = torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])
    return _from_bytes(rows, columns)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Elementwise sum of the ranks' tensors, without gradient, with the same bits on every rank; shapes must agree."""
    values = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def gather_interleaved(rows: Tensor, count: int) -> Tensor | None:
    """Puts rows together on rank 0 that were dealt out to the ranks one by one; every rank must call it.

    Args:
        rows: (n, ...), the rows `rank`, `rank + ranks`, ... of the whole, n = len(range(rank, count, ranks)).
        count: the number of rows of the whole.

    Returns:
        The whole (count, ...) on the CPU, bit for bit; None on the other ranks. The rows travel in pieces, so that no
        device has to hold more than its own rows and one piece of the others'.
    """
    ranks, index = world_size(), rank()
    width = math.prod(rows.shape[1:]) * rows.element_size()
    longest = len(range(0, count, ranks))
    piece = max(1, _PIECE_BYTES // max(width * ranks, 1))
    whole = torch.empty(longest, ranks, width, dtype=torch.uint8) if index == 0 else None
    for start in range(0, longest, piece):
        own = _to_bytes(rows.detach()[start : start + piece])
        sent = own.new_zeros(min(piece, longest - start), width)
        sent[: len(own)] = own
        parts = [torch.empty_like(sent) for _ in range(ranks)] if whole is not None else None
        if ranks > 1:
            dist.gather(sent, parts, dst=0)
        else:
            parts = [sent]
        if whole is not None and parts is not None:
            whole[start : start + piece] = torch.stack(parts, dim=1).cpu()
    return None if whole is None else _from_bytes(whole.flatten(0, 1)[:count], [rows])[0]


def _exchange_sizes(packed: Tensor, ranks: int) -> list[int]:
    """The number of rows of every rank. It raises when the rows' widths differ, because the gather would then hang."""
    shape = torch.tensor(packed.shape, device=packed.device, dtype=torch.int64)
    gathered = [torch.empty_like(shape) for _ in range(ranks)]
    dist.all_gather(gathered, shape)
    shapes = torch.stack(gathered).tolist()
    if len({width for _, width in shapes}) > 1:
        raise RuntimeError(
            "Rows to gather differ between processes, in bytes per row, by rank: "
            f"{[width for _, width in shapes]}. All processes must use the same model and the same precision."
        )
    return [rows for rows, _ in shapes]


def _to_bytes(column: Tensor) -> Tensor:
    """Turns (n, ...) of any dtype into (n, bytes per row) uint8."""
    # clone, here and below: only freshly allocated storage can be viewed as another dtype, whatever its strides were.
    flat = column.reshape(-1).clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).reshape(len(column), math.prod(column.shape[1:]) * column.element_size())


def _from_bytes(rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Undoes `_to_bytes` and the concatenation. The results have the dtypes and trailing shapes of `like`."""
    widths = [math.prod(column.shape[1:]) * column.element_size() for column in like]
    parts = torch.split(rows, widths, dim=1)
    return [
        part.reshape(-1)
        .clone(memory_format=torch.contiguous_format)
        .view(column.dtype)
        .reshape(len(rows), *column.shape[1:])
        for part, column in zip(parts, like, strict=True)
    ]
