"""Matched pairs of a batch: where their instance stands when the instances of all images follow each other."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pair_rows(counts: Sequence[int], image_index: Tensor, target_index: Tensor) -> Tensor:
    """Rows in `torch.cat` of the images' tensors.

    Args:
        counts: B, instances of each image.
        image_index: (S,) long.
        target_index: (S,) long, row among the instances of the pair's image.

    Returns:
        (S,) long.
    """
    first = torch.tensor([0, *counts[:-1]], device=image_index.device).cumsum(0)
    return first[image_index] + target_index
