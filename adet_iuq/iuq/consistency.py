"""Finds ranks whose tensors differ although they should be the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .distributed import all_gather_rows, world_size

_WORDS_AT_A_TIME = 2**20
# Two odd numbers with well-mixed bits, written as signed 64-bit integers; any such pair would do.
_PLACE, _MIX = -7046029254386353131, -4658895280553007687


def checksum(tensor: Tensor) -> Tensor:
    """A number (scalar, long) that depends on every bit of a contiguous tensor of any dtype, and on each bit's place.

    A change of one 64-bit word always changes the number. A change of several words goes unnoticed in one case of 2^64.
    """
    raw = tensor.detach().reshape(-1).view(torch.uint8)
    words = F.pad(raw, (0, -len(raw) % 8)).view(torch.int64)
    total = torch.tensor(len(raw), device=tensor.device)
    for start in range(0, len(words), _WORDS_AT_A_TIME):
        part = words[start : start + _WORDS_AT_A_TIME]
        place = torch.arange(start, start + len(part), device=part.device)
        total += _mix(part + _mix(place * _PLACE)).sum()
    return total


def check_same_on_all_ranks(tensors: Mapping[str, Tensor], what: str) -> None:
    """Compares the ranks' checksums. It is a collective call, and every rank comes to the same verdict.

    Args:
        tensors: the tensors to compare, under the same names on every rank.
        what: what the tensors are part of, for the message.

    Raises:
        RuntimeError: some tensors differ. Every rank raises it, with the names of the tensors and of the ranks that
            differ from the majority (from rank 0 where there is no majority).
    """
    if world_size() == 1:
        return
    (sums,) = all_gather_rows([torch.stack([checksum(tensor) for tensor in tensors.values()])[None]])
    found = []
    for name, values in zip(tensors, sums.t().tolist(), strict=True):
        usual = Counter(values).most_common(1)[0][0]  # among equally frequent values the first one counts: rank 0's
        differing = [rank for rank, value in enumerate(values) if value != usual]
        if differing:
            found.append(f"'{name}' on rank {', '.join(map(str, differing))}")
    if found:
        raise RuntimeError(
            f"The {what} should be the same on all {len(sums)} processes, but these differ from the others: "
            f"{'; '.join(found)}. All processes must run the same code with the same config, and the memory must be "
            "written by its enqueue only."
        )


def _mix(words: Tensor) -> Tensor:
    """A one-to-one scrambling of 64-bit words (multiplications wrap around)."""
    words = (words ^ (words >> 29 & (1 << 35) - 1)) * _MIX
    return words ^ (words >> 32 & (1 << 32) - 1)
