"""The inter-scene loss over a large memory, exact and in bounded memory (Eq. 5).

The target is zero everywhere and the memory takes no gradient, so the gradient of the loss with respect to the queries
is a plain sum over pixels: it is accumulated chunk by chunk during the forward pass, and nothing of a chunk is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .losses import ElementwiseLoss, Normalizer, pixel_weights
from .structures import Pixels, Queries

Retrieve = Callable[[Queries, Pixels], Tensor]

# The loss itself holds about so many floats for each (query, pixel) pair: logit, loss, their intermediates, gradients.
_LOSS_FLOATS_PER_PAIR = 8
# A CPU wants its chunks in the cache; a GPU wants few kernels to launch (docs/performance.md).
_CPU_CHUNK_BYTES, _GPU_CHUNK_BYTES = 16 * 1024**2, 128 * 1024**2


class InterLoss(NamedTuple):
    """The loss and, without gradient, how often queries fire (logit > 0); all tensors are scalars."""

    value: Tensor  # float32 (float64 for float64 queries), connected to the queries' embeddings
    num_pairs: Tensor  # long, valid (query, foreign pixel) pairs
    num_fired: Tensor  # long, those of them that fire
    num_own_pairs: Tensor  # long, pairs of a query and a pixel of its own image, which the loss leaves out
    num_own_fired: Tensor  # long


def chunked_inter_loss(
    queries: Queries,
    query_ids: Tensor,
    pixels: Pixels,
    retrieve: Retrieve,
    loss: ElementwiseLoss,
    *,
    normalizer: Normalizer = pixel_weights,
    chunk_bytes: int = 0,
    bytes_per_pair: int = 0,
) -> InterLoss:
    """All queries on all pixels of other images, with an all-zero target (Eq. 5).

    Computed outside autocast in float32 (float64 if the embeddings are). The gradient reaches `queries.embeddings` and
    nothing else. Differentiable once: a second derivative raises RuntimeError.

    Args:
        queries: Q queries.
        query_ids: (Q,) long, image id of each query; pixels of the same id are its own image and left out.
        pixels: P pixels of any floating dtype; id -1 marks empty slots, which never count.
        retrieve: gives (Q, P) logits; it is called with parts of `pixels`.
        loss: elementwise loss of a logit whose target is 0.
        normalizer: weights (Q,) of each query's summed loss, from query ids and pixel ids.
        chunk_bytes: what one chunk may take; changes speed and memory, and the loss by rounding only. 0: 16 MiB on the
            CPU, 128 MiB elsewhere.
        bytes_per_pair: what `retrieve` takes for each pair, its backward pass included.
    """
    with torch.autocast(pixels.features.device.type, enabled=False):
        weights = normalizer(query_ids, pixels.image_ids)
        per_pixel = len(queries) * (bytes_per_pair + 4 * _LOSS_FLOATS_PER_PAIR) + 8 * pixels.features.shape[1]
        if chunk_bytes == 0:
            chunk_bytes = _CPU_CHUNK_BYTES if pixels.features.device.type == "cpu" else _GPU_CHUNK_BYTES
        chunk = max(1, chunk_bytes // max(per_pixel, 1))
        evaluation = _Evaluation(queries, query_ids, pixels, retrieve, loss, weights, chunk)
        embeddings = queries.embeddings
        if torch.is_grad_enabled() and embeddings.requires_grad:
            return InterLoss(*_FusedLoss.apply(embeddings, evaluation))
        totals, _ = evaluation.run(embeddings, with_gradient=False)
        return totals


class _Evaluation:
    """One pass over all chunks."""

    def __init__(
        self,
        queries: Queries,
        query_ids: Tensor,
        pixels: Pixels,
        retrieve: Retrieve,
        loss: ElementwiseLoss,
        weights: Tensor,
        chunk: int,
    ) -> None:
        self.dtype = torch.promote_types(queries.embeddings.dtype, torch.float32)
        detached = replace(
            queries,
            embeddings=queries.embeddings.detach(),
            context={name: value.detach() for name, value in queries.context.items()},
        )
        self.queries = detached.to(dtype=self.dtype)
        self.query_ids = query_ids
        self.pixels = pixels
        self.retrieve = retrieve
        self.loss = loss
        self.weights = weights.to(self.dtype)
        self.chunk = chunk

    def run(self, embeddings: Tensor, with_gradient: bool) -> tuple[InterLoss, Tensor]:
        """The loss at `embeddings` (Q, d) and, if asked for, its gradient with respect to them."""
        leaf = embeddings.detach().to(self.dtype)
        gradient = torch.zeros_like(leaf)
        value = leaf.new_zeros(())
        counts = torch.zeros(4, dtype=torch.long, device=leaf.device)
        for pixels in self._chunks():
            with torch.set_grad_enabled(with_gradient):
                point = leaf.detach().requires_grad_(with_gradient)
                logits = self.retrieve(replace(self.queries, embeddings=point), pixels)
            # Slope and value in one go; autograd then only takes the slope back through the retrieval.
            per_pair, slope = self.loss.value_and_slope(logits.detach().to(self.dtype))
            filled, own = self._pairs(pixels.image_ids)
            left_out = own | ~filled
            value += per_pair.masked_fill_(left_out, 0.0).sum(dim=1) @ self.weights
            counts += _count(logits.detach() > 0, filled, own)
            slope.mul_(self.weights[:, None]).masked_fill_(left_out, 0.0)
            # Queries that have learned to stay silent have slopes that underflow to zero.
            if with_gradient and slope.any():
                gradient += torch.autograd.grad(logits, point, slope.to(logits.dtype))[0]
        return InterLoss(value, *counts.unbind()), gradient

    def _chunks(self) -> Iterator[Pixels]:
        if len(self.queries) == 0:
            return
        for start in range(0, len(self.pixels), self.chunk):
            part = self.pixels.select(slice(start, start + self.chunk)).to(dtype=self.dtype)
            yield replace(
                part,
                features=part.features.detach(),
                context={name: value.detach() for name, value in part.context.items()},
            )

    def _pairs(self, pixel_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Which slots are filled (1, P), and which pairs are of one image (Q, P); both bool."""
        filled = (pixel_ids >= 0)[None]
        return filled, (self.query_ids[:, None] == pixel_ids[None]) & filled


def _count(fired: Tensor, filled: Tensor, own: Tensor) -> Tensor:
    """(4,) long: foreign pairs, those that fire, own pairs, those that fire."""
    own_pairs, own_fired = own.sum(), (fired & own).sum()
    pairs, all_fired = filled.sum() * len(own), (fired & filled).sum()
    return torch.stack([pairs - own_pairs, all_fired - own_fired, own_pairs, own_fired])


class _FusedLoss(torch.autograd.Function):
    """Value and gradient in one forward pass; only the gradient (Q, d) is kept."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, evaluation: _Evaluation) -> tuple[Tensor, ...]:
        """Returns the fields of InterLoss."""
        totals, gradient = evaluation.run(embeddings, with_gradient=True)
        ctx.save_for_backward(gradient, embeddings)
        ctx.mark_non_differentiable(*totals[1:])
        return tuple(totals)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        """Scales the kept gradient by that of the value."""
        gradient, embeddings = ctx.saved_tensors
        return _OnceOnly.apply((grad_outputs[0] * gradient).to(embeddings.dtype), embeddings), None


class _OnceOnly(torch.autograd.Function):
    """Identity that refuses to be differentiated: the kept gradient does not know the queries any more."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, embeddings: Tensor) -> Tensor:
        """Returns the gradient, as a function of the embeddings (which it is)."""
        return gradient

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        """Raises RuntimeError."""
        raise RuntimeError(
            "The chunked inter-scene loss can be differentiated once only, since it keeps no graph over the memory. "
            "For second derivatives compute the loss from retrieve() and adet_iuq.iuq.losses directly."
        )
