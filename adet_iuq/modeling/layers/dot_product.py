"""<q, I> as a plain dot product, each query on its own image's map."""

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
    parts = [embeddings[index] @ one.flatten(1) for index, one in zip(order.split(counts), maps, strict=True)]
    return torch.cat(parts)[torch.argsort(order)].view(-1, *maps.shape[2:])
