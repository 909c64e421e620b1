"""The masks of one image's results: a tensor for code that reads pixels, run lengths for evaluations.

A hundred masks of a picture with 10,000 x 10,000 pixels are a tensor of 10 GB, but a few megabytes of run lengths.
Masks arrive as an iterator of chunks, each of few masks. One of the two functions here collects them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
import torch
from torch import Tensor

from adet_iuq.modeling.layers.masks import mask_boxes

Size = tuple[int, int]


@dataclass(frozen=True)
class MaskWindow:
    """Masks of an image that are false outside of a window which they share."""

    inside: Tensor  # (n, h, w) bool, the masks in the window
    top: int  # the row of the image that the window begins with
    left: int  # the column

    def __len__(self) -> int:
        return len(self.inside)


Chunk = Tensor | MaskWindow  # masks (n, H, W) bool of whole images, or what a window of them holds


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


def stacked_masks(chunks: Iterable[Chunk], number: int, size: Size, device: torch.device) -> Tensor:
    """Collects the masks as (number, *size) bool on the device."""
    masks = torch.zeros((number, *size), dtype=torch.bool, device=device)
    start = 0
    for window in map(_window, chunks):
        height, width = window.inside.shape[1:]
        part = masks[start : start + len(window)]
        part[:, window.top : window.top + height, window.left : window.left + width] = window.inside
        start += len(window)
    return masks


def encoded_masks(chunks: Iterable[Chunk], size: Size) -> EncodedMasks:
    """Collects the masks as run lengths."""
    rles: list[dict[str, Any]] = []
    for window in map(_window, chunks):
        inside, (height, width) = window.inside, window.inside.shape[1:]
        small = 2 * height * width < size[0] * size[1]
        if not small and (height, width) != size:
            inside = stacked_masks([window], len(window), size, inside.device)
        # Run lengths go down the columns. If the masks are turned here, on their device, no one need copy them again.
        columns = inside.transpose(1, 2).contiguous().cpu().numpy()
        if small:
            rles += [_window_rle(mask, window.top, window.left, size) for mask in columns]
        else:
            rles += mask_util.encode(columns.view(np.uint8).transpose(2, 1, 0))
    return EncodedMasks(rles, size)


def _window(chunk: Chunk) -> MaskWindow:
    return chunk if isinstance(chunk, MaskWindow) else MaskWindow(chunk, 0, 0)


def _window_rle(columns: npt.NDArray[np.bool_], top: int, left: int, size: Size) -> dict[str, Any]:
    """The run lengths of a mask (h, w) of an image of `size`, from a window's columns (x, y), without the whole image."""
    height, width = size
    padded = np.zeros((columns.shape[0], columns.shape[1] + 2), dtype=bool)
    padded[:, 1:-1] = columns
    column, row = np.nonzero(padded[:, 1:] != padded[:, :-1])
    edges = (column + left) * height + row + top  # where runs begin and end, in turn
    # A run that ends at the bottom goes on if the next one begins at the top: both edges are the same pixel.
    edges = edges[(np.diff(edges, prepend=-1) != 0) & (np.diff(edges, append=-1) != 0)]
    counts = np.diff(edges, prepend=0, append=height * width)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    rle: dict[str, Any] = mask_util.frPyObjects({"counts": counts.tolist(), "size": [height, width]}, height, width)
    return rle


def boxes_around(masks: Masks, device: torch.device) -> Tensor:
    """(N, 4) tight boxes on the device, as `mask_boxes` defines them."""
    return (masks.boxes() if isinstance(masks, EncodedMasks) else mask_boxes(masks)).to(device)
