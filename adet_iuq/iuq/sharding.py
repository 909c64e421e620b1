"""The inter-scene loss on a memory that is split over the ranks.

Queries are few and pixels are many, so the queries travel: every rank matches those of all ranks with its own part of the
memory, and losses and gradients are summed for the owners. The gradient is known when the forward pass ends (as in
`retrieval.py`), so the backward pass needs no exchange: its order may differ between ranks, collectives may not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .distributed import all_gather_rows, rank, sum_over_ranks, world_size
from .losses import ElementwiseLoss
from .retrieval import InterLoss, Retrieve, chunked_inter_loss
from .structures import Pixels, Queries


def sharded_inter_loss(
    queries: Queries,
    query_ids: Tensor,
    weights: Tensor,
    shard: Pixels,
    retrieve: Retrieve,
    loss: ElementwiseLoss,
    *,
    scale: float = 1.0,
    chunk_bytes: int = 0,
    bytes_per_pair: int = 0,
) -> InterLoss:
    """What `chunked_inter_loss` gives for this rank's queries on the pixels of all shards; a collective call.

    It exchanges the same number of messages whatever the ranks hold: no query, no pixel, anything not finite. What is
    not finite in one rank's queries reaches the loss of that rank only.

    Args:
        queries: Q queries of this rank, with the same context names and dtypes as those of the others.
        query_ids: (Q,) long, image id of each query.
        weights: (Q,) of each query's loss, summed over the pixels of all shards (see `query_weights`).
        shard: the pixels of this rank's part, or a sample of them.
        retrieve, loss, chunk_bytes, bytes_per_pair: as in `chunked_inter_loss`.
        scale: of the sums over this rank's shard, number of its pixels / number sampled.

    Returns:
        Loss and counts of this rank's queries. Differentiable once.
    """
    parts = _gather(queries, query_ids, weights)
    matched = [
        _match(*part, shard, retrieve, loss, scale=scale, chunk_bytes=chunk_bytes, bytes_per_pair=bytes_per_pair)
        for part in parts
    ]
    shape = (sum(len(gradient) for _, gradient in matched), queries.embeddings.shape[1])
    gradients = torch.cat([gradient for _, gradient in matched])
    values = torch.stack([result.value for result, _ in matched])
    sums = sum_over_ranks(torch.cat([values, gradients.flatten()]))
    counts = sum_over_ranks(torch.stack([torch.stack(result[1:]) for result, _ in matched]))
    mine = rank()
    start = sum(len(part_ids) for _, part_ids, _ in parts[:mine])
    gradient = sums[len(parts) :].view(shape)[start : start + len(queries)]
    value: Tensor = _KnownGradient.apply(queries.embeddings, sums[mine], gradient)
    return InterLoss(value, *counts[mine].unbind())


def _gather(queries: Queries, query_ids: Tensor, weights: Tensor) -> list[tuple[Queries, Tensor, Tensor]]:
    """Queries, image ids and weights of every rank."""
    owner = torch.full_like(query_ids, rank())
    columns = [owner, query_ids, weights, queries.embeddings, queries.image_index, queries.target_index]
    owner, ids, weights, embeddings, image_index, target_index, *context = all_gather_rows(
        [*columns, *queries.context.values()]
    )
    everyone = Queries(embeddings, image_index, target_index, dict(zip(queries.context, context, strict=True)))
    parts, start = [], 0
    for size in torch.bincount(owner, minlength=world_size()).tolist():
        rows = slice(start, start + size)
        parts.append((everyone.select(rows), ids[rows], weights[rows]))
        start += size
    return parts


def _match(
    queries: Queries,
    query_ids: Tensor,
    weights: Tensor,
    shard: Pixels,
    retrieve: Retrieve,
    loss: ElementwiseLoss,
    *,
    scale: float,
    chunk_bytes: int,
    bytes_per_pair: int,
) -> tuple[InterLoss, Tensor]:
    """One rank's queries on this shard: loss and counts, and the gradient (Q, d), in at least float32."""
    dtype = torch.promote_types(queries.embeddings.dtype, torch.float32)
    with torch.enable_grad():
        leaf = queries.embeddings.to(dtype).requires_grad_()
        result = chunked_inter_loss(
            replace(queries, embeddings=leaf),
            query_ids,
            shard,
            retrieve,
            loss,
            normalizer=lambda _query_ids, _pixel_ids: scale * weights,
            chunk_bytes=chunk_bytes,
            bytes_per_pair=bytes_per_pair,
        )
        (gradient,) = torch.autograd.grad(result.value, leaf)
    return InterLoss(result.value.detach(), *result[1:]), gradient


class _KnownGradient(torch.autograd.Function):
    """A value whose gradient with respect to the embeddings has been computed elsewhere."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """Returns the value."""
        ctx.save_for_backward(gradient)
        ctx.dtype = embeddings.dtype
        return value.clone()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        """Scales the gradient."""
        (gradient,) = ctx.saved_tensors
        return (grad_output * gradient).to(ctx.dtype), None, None
