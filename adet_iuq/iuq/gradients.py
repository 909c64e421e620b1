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
        strength, standard = ours.norm(), theirs.norm()
        if standard == 0:
            return {}
        cosine = (ours / strength.clamp(min=torch.finfo(ours.dtype).tiny)) @ (theirs / standard)
        return {"gradient_ratio": strength / standard, "gradient_cosine": cosine}


def _gradient(loss: Tensor, at: Sequence[Tensor]) -> Tensor:
    """The gradients, flattened and joined into one float32 vector."""
    if not loss.requires_grad:
        return torch.zeros(sum(tensor.numel() for tensor in at), device=loss.device)
    outer = torch.full_like(loss, _SCALE)
    found = torch.autograd.grad(loss, at, outer, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.float().flatten() for gradient in found]) / _SCALE
