"""Finds the instances of a batch's matched pairs in a tensor that holds the instances of all images."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pair_rows(counts: Sequence[int], image_index: Tensor, target_index: Tensor) -> Tensor:
    """The row of each pair's instance in `torch.cat` of the images' tensors.

    Args:
        counts: the number of instances of each of B images.
        image_index: long, the image of each pair.
        target_index: long, the row among the instances of that image; the two shapes broadcast.

    Returns:
        Long, the rows, of the broadcast shape.
    """
    first = torch.tensor([0, *counts[:-1]], device=image_index.device).cumsum(0)
    return first[image_index] + target_index
