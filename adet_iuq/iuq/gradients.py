"""How strong one loss is beside another: their gradients on the same tensors. A loss's value does not tell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# A power of two, so that it is exact; it keeps the gradients of half-precision tensors from vanishing.
_SCALE = 2.0**10


def compare_gradients(term: Tensor, reference: Tensor, at: Sequence[Tensor]) -> dict[str, Tensor]:
    """Both losses' gradients with respect to the same tensors; the graph is kept and no `.grad` is touched.

    Args:
        term, reference: scalars with a graph.
        at: tensors of that graph, of any floating dtypes; a loss that does not depend on one has the gradient 0 there.

    Returns:
        `gradient_ratio`, |grad term| / |grad reference|, and `gradient_cosine` between them, float32 scalars, both 0 where
        the term has no gradient. Empty where there is nothing to compare with: the reference has no gradient.
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
    """The gradients one after the other, flat, float32."""
    if not loss.requires_grad:
        return torch.zeros(sum(tensor.numel() for tensor in at), device=loss.device)
    outer = torch.full_like(loss, _SCALE)
    found = torch.autograd.grad(loss, at, outer, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.float().flatten() for gradient in found]) / _SCALE
