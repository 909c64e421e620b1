"""<q, I> as a plain dot product of each query with its own image's map."""

from collections.abc import Sequence

import torch
from torch import Tensor


def dot_product_maps(embeddings: Tensor, image_index: Tensor, maps: Tensor) -> Tensor:
    """The logits of every query on all cells of its own image's map, by one matrix product per image.

    Args:
        embeddings: (Q, D), the queries.
        image_index: (Q,) long, the image of each query.
        maps: (B, D, h, w), the dense maps.

    Returns:
        (Q, h, w), which depends on both inputs even if there are no queries.
    """
    order = torch.argsort(image_index, stable=True)
    counts = torch.bincount(image_index, minlength=len(maps)).tolist()
    return ordered_dot_product_maps(embeddings[order], counts, maps)[torch.argsort(order)]


def ordered_dot_product_maps(embeddings: Tensor, counts: Sequence[int], maps: Tensor) -> Tensor:
    """Does the same for queries that are ordered by image, with `counts` for each, and does not wait for the device."""
    groups = zip(embeddings.split(list(counts)), maps, strict=True)
    return torch.cat([group @ one.flatten(1) for group, one in groups]).view(-1, *maps.shape[2:])
