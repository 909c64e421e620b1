"""Finds the instances of a batch's matched pairs in a tensor that holds the instances of all images."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pair_rows(counts: Sequence[int], image_index: Tensor, target_index: Tensor) -> Tensor:
    """The row of each pair's instance in `torch.cat` of the images' tensors.

    Args:
        counts: the number of instances of each of B images.
        image_index: (S,) long, the image of each pair.
        target_index: (S,) long, the row among the instances of that image.

    Returns:
        (S,) long, the rows.
    """
    first = torch.tensor([0, *counts[:-1]], device=image_index.device).cumsum(0)
    return first[image_index] + target_index
