"""What losses are divided by, on one process or over all of them (MODEL.REDUCE_NORMALIZER)."""

import torch
from detectron2.utils import comm
from torch import Tensor


def loss_count(count: Tensor | int, *, reduce: bool, device: torch.device | None = None) -> tuple[Tensor, int]:
    """The number of items that a summed loss is divided by, and a factor for the sum.

    Published losses count the items of this rank. Reduced, the items of all ranks count, and the factor is the number of
    ranks, which the average over ranks takes back: N processes train as one with the same global batch.

    Args:
        count: scalar, of this rank, not below 0; an integer needs `device`.
        reduce: a collective call, whatever the count.

    Returns:
        The scalar count and the factor; without `reduce` the count itself and 1.
    """
    count = torch.as_tensor(count, device=device)
    ranks = comm.get_world_size() if reduce else 1
    if ranks > 1:
        count = count.detach().clone()
        torch.distributed.all_reduce(count)
    return count, ranks


def reduce_mean(value: Tensor) -> Tensor:
    """Mean of a floating-point scalar over all ranks."""
    total, ranks = loss_count(value, reduce=True)
    return total / ranks
