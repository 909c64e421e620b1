"""The inter-scene loss on a memory that is split over the ranks.

Queries are few and pixels are many, so the queries travel: every rank compares the queries of all ranks with its own
part of the memory, and the losses and gradients are summed for the ranks that own the queries. As in `inter_scene.py`
the gradient is known when the forward pass ends, so the backward pass exchanges nothing. It could not do so safely:
ranks may run it in different orders, while collective calls need the same order everywhere.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .distributed import all_gather_rows, rank, sum_over_ranks, world_size
from .inter_scene import InterLoss, InterSceneLoss, Retrieve, known_gradient
from .structures import Pixels, Queries


def sharded_inter_loss(
    loss: InterSceneLoss,
    queries: Queries,
    query_ids: Tensor,
    shard: Pixels,
    retrieve: Retrieve,
    *,
    query_weights: Tensor,
    pixel_weights: Tensor | None = None,
    bytes_per_pair: int = 0,
) -> InterLoss:
    """The result of `loss` for this rank's queries on the pixels of all shards; a collective call.

    The number of messages does not depend on what the ranks hold: no query, no pixel, values that are not finite.
    Values that are not finite in one rank's queries reach the loss of that rank only.

    Args:
        loss: the inter-scene loss, the same on all ranks.
        queries: Q queries of this rank, with the same context names and dtypes as those of the other ranks.
        query_ids: (Q,) long, the image id of each query.
        shard: the pixels of this rank's part, or a sample of them.
        retrieve: the function that `loss` calls for logits.
        query_weights: (Q,) factors of each query's loss, summed over the pixels of all shards.
        pixel_weights: (P,) how many pixels of this shard each pixel stands for; None: each stands for itself.
        bytes_per_pair: the value that `loss` takes under this name.

    Returns:
        The loss and the counts of this rank's queries, differentiable once.
    """
    parts = _gather(queries, query_ids, query_weights)
    # At least float32, because a gradient that is still to be summed and scaled would vanish in half precision.
    dtype = torch.promote_types(queries.embeddings.dtype, torch.float32)
    matched = []
    for everyone, ids, weights in parts:
        with torch.enable_grad():
            leaf = everyone.embeddings.detach().to(dtype).requires_grad_()
            result = loss(
                replace(everyone, embeddings=leaf),
                ids,
                shard,
                retrieve,
                query_weights=weights,
                pixel_weights=pixel_weights,
                bytes_per_pair=bytes_per_pair,
            )
            (gradient,) = torch.autograd.grad(result.value, leaf)
        matched.append((result._replace(value=result.value.detach()), gradient))
    gradients = torch.cat([gradient for _, gradient in matched])
    values = torch.stack([result.value for result, _ in matched])
    sums = sum_over_ranks(torch.cat([values, gradients.flatten()]))
    counts = sum_over_ranks(torch.stack([torch.stack(result[1:]) for result, _ in matched]))
    mine = rank()
    start = sum(len(part_ids) for _, part_ids, _ in parts[:mine])
    gradient = sums[len(parts) :].view(gradients.shape)[start : start + len(queries)]
    return InterLoss(known_gradient(queries.embeddings, sums[mine], gradient), *counts[mine].unbind())


def _gather(queries: Queries, query_ids: Tensor, weights: Tensor) -> list[tuple[Queries, Tensor, Tensor]]:
    """The queries, image ids and weights of every rank."""
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
