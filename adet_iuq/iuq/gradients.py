"""Compares the strength of two losses by their gradients on the same tensors. The losses' values do not show it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# The factor keeps the gradients of half-precision tensors from vanishing. As a power of two it is exact.
_SCALE = 2.0**10


def compare_gradients(term: Tensor, reference: Tensor, at: Sequence[Tensor]) -> dict[str, Tensor]:
    """The gradients of both losses with respect to the same tensors. The graph is kept and no `.grad` is touched.

    Args:
        term: a scalar with a graph.
        reference: the scalar to compare it with, of the same graph.
        at: tensors of that graph, of any floating dtype. A loss that does not depend on one of them has gradient 0 there.

    Returns:
        `gradient_ratio`, |grad term| / |grad reference|, and `gradient_cosine` between them, float32 scalars; both are
        0 where the term has no gradient. The result is empty where the reference has no gradient to compare with.
    """
    at = [tensor for tensor in at if tensor.requires_grad]
    if not at or not reference.requires_grad:
        return {}
    with torch.autocast(reference.device.type, enabled=False):
        ours, theirs = _gradient(term, at), _gradient(reference, at)
        strength, direction = _norm_and_direction(ours)
        standard, its_direction = _norm_and_direction(theirs)
        if standard == 0:
            return {}
        return {"gradient_ratio": strength / standard, "gradient_cosine": direction @ its_direction}


def _norm_and_direction(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The norm, and the vector divided by it (zero if it is zero).

    The squares of a collapsed model's gradients vanish in float32 before the gradients do, so they are enlarged first.
    """
    tiny = torch.finfo(gradient.dtype).tiny
    largest = gradient.abs().max() if gradient.numel() else gradient.new_zeros(())
    enlarged = gradient / largest.clamp(min=tiny)
    norm = enlarged.norm()
    return largest * norm, enlarged / norm.clamp(min=tiny)


def _gradient(loss: Tensor, at: Sequence[Tensor]) -> Tensor:
    """The gradients, flattened and joined into one float32 vector."""
    if not loss.requires_grad:
        return torch.zeros(sum(tensor.numel() for tensor in at), device=loss.device)
    outer = torch.full_like(loss, _SCALE)
    found = torch.autograd.grad(loss, at, outer, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.float().flatten() for gradient in found]) / _SCALE
