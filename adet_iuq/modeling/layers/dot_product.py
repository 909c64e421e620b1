"""<q, I> as a plain dot product, each query on its own image's map."""

from collections.abc import Sequence

import torch
from torch import Tensor


def dot_product_maps(embeddings: Tensor, image_index: Tensor, maps: Tensor) -> Tensor:
    """Logits of every query on all cells of its own image's map; one matrix product an image.

    Args:
        embeddings: (Q, D).
        image_index: (Q,) long.
        maps: (B, D, h, w).

    Returns:
        (Q, h, w), connected to both inputs also without queries.
    """
    order = torch.argsort(image_index, stable=True)
    counts = torch.bincount(image_index, minlength=len(maps)).tolist()
    return ordered_dot_product_maps(embeddings[order], counts, maps)[torch.argsort(order)]


def ordered_dot_product_maps(embeddings: Tensor, counts: Sequence[int], maps: Tensor) -> Tensor:
    """The same for queries ordered by image, `counts` of each; the device is not waited for."""
    groups = zip(embeddings.split(list(counts)), maps, strict=True)
    return torch.cat([group @ one.flatten(1) for group, one in groups]).view(-1, *maps.shape[2:])
