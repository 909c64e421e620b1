"""Finds ranks whose tensors differ although they should be the same."""

from __future__ import annotations

import ctypes
import hashlib
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from .distributed import all_gather_rows, world_size


def checksum(tensor: Tensor) -> Tensor:
    """The first 64 bits of BLAKE2b over the bytes of a tensor of any dtype, as a number (scalar, long).

    The bytes are copied to the CPU. torch.hash_tensor does not serve: it ignores the order of the elements.
    """
    raw = tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu()  # one column of a table may be strided
    content = (ctypes.c_ubyte * raw.numel()).from_address(raw.data_ptr()) if raw.numel() else b""
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return torch.tensor(int.from_bytes(digest, "little", signed=True), device=tensor.device)


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
