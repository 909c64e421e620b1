"""The masks of one image's results: a tensor for code that reads pixels, run lengths for evaluations.

A hundred masks of a picture with 10,000 x 10,000 pixels are a tensor of 10 GB, but a few megabytes of run lengths.
Masks arrive as an iterator of chunks (n, H, W) bool, each of few masks. One of the two functions here collects them.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from torch import Tensor

from adet_iuq.modeling.layers.masks import mask_boxes

Size = tuple[int, int]


class EncodedMasks:
    """N masks of one size as COCO's compressed run lengths, which `Instances` accepts as a field.

    Args:
        rles: N dicts with `size` and `counts` (bytes), as pycocotools makes them.
        size: (H, W) in pixels.
    """

    def __init__(self, rles: list[dict[str, Any]], size: Size) -> None:
        self.rles, self.size = rles, size

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: Tensor | slice) -> "EncodedMasks":
        """The masks that a slice, numbers (n,) long or a choice (N,) bool selects."""
        if isinstance(index, slice):
            return EncodedMasks(self.rles[index], self.size)
        chosen = np.arange(len(self))[index.cpu().numpy()]
        return EncodedMasks([self.rles[number] for number in chosen], self.size)

    def decoded(self) -> Tensor:
        """(N, H, W) bool, on the CPU."""
        masks = [torch.from_numpy(mask_util.decode(rle)).bool() for rle in self.rles]
        return torch.stack(masks) if masks else torch.zeros((0, *self.size), dtype=torch.bool)

    def boxes(self) -> Tensor:
        """The result of `mask_boxes` for the decoded masks, on the CPU."""
        if not self.rles:
            return torch.zeros(0, 4)
        boxes = torch.from_numpy(mask_util.toBbox(self.rles)).float()
        return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


Masks = Tensor | EncodedMasks


def stacked_masks(chunks: Iterable[Tensor], number: int, size: Size, device: torch.device) -> Tensor:
    """Collects the masks as (number, *size) bool on the device."""
    masks = torch.empty((number, *size), dtype=torch.bool, device=device)
    start = 0
    for chunk in chunks:
        masks[start : start + len(chunk)] = chunk
        start += len(chunk)
    return masks


def encoded_masks(chunks: Iterable[Tensor], size: Size) -> EncodedMasks:
    """Collects the masks as run lengths."""
    rles: list[dict[str, Any]] = []
    for chunk in chunks:
        # pycocotools needs columns first. If the masks are turned here, on their device, it need not copy them again.
        columns = chunk.transpose(1, 2).contiguous().view(torch.uint8).cpu().numpy()
        rles += mask_util.encode(columns.transpose(2, 1, 0))
    return EncodedMasks(rles, size)


def boxes_around(masks: Masks, device: torch.device) -> Tensor:
    """(N, 4) tight boxes on the device, as `mask_boxes` defines them."""
    return (masks.boxes() if isinstance(masks, EncodedMasks) else mask_boxes(masks)).to(device)
