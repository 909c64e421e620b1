"""Turns patches into masks of the output size, a few at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

_CHUNK_BYTES = 32 * 1024**2  # bytes of masks that exist at one time


def pasted_patches(patches: Tensor, boxes: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Draws patches into their boxes, bilinearly, with zeros around them. A pixel is set from a half on.

    Interpolation between four cells is one between rows and one
    between columns, so a matrix stands on either side of a patch.

    Args:
        patches: (N, m, m) bool.
        boxes: (N, 4) XYXY in pixels of the output; they may reach outside.
        size: (height, width) of the output.

    Yields:
        (n, height, width) bool.
    """
    step = max(1, _CHUNK_BYTES // (size[0] * size[1]))
    cells = patches.shape[1]
    low, high = (boxes[:, :2].floor() - 1).clamp(min=0), boxes[:, 2:].ceil() + 1
    reaches = torch.cat([low, high.minimum(boxes.new_tensor([size[1], size[0]]))], dim=1).int().tolist()
    for start in range(0, len(patches), step):
        part = slice(start, start + step)
        masks = torch.zeros((len(patches[part]), *size), dtype=torch.bool, device=patches.device)
        for mask, patch, box, (x0, y0, x1, y1) in zip(masks, patches[part], boxes[part], reaches[part], strict=True):
            if x1 > x0 and y1 > y0:
                rows = _between_cells(y0, y1, box[1::2], cells)
                columns = _between_cells(x0, x1, box[0::2], cells)
                mask[y0:y1, x0:x1] = rows @ patch.to(rows.dtype) @ columns.T >= 0.5
        yield masks


def _between_cells(start: int, stop: int, edges: Tensor, cells: int) -> Tensor:
    """(stop - start, cells): the weight of every cell of a patch for each pixel of a range, on one axis.

    Args:
        start: the first pixel.
        stop: the pixel after the last one.
        edges: (2,), the positions where the patch begins and ends.
        cells: m, the cells along a side of the patch.
    """
    pixels = torch.arange(start, stop, device=edges.device) + 0.5
    position = (pixels - edges[0]) / (edges[1] - edges[0]) * cells - 0.5
    distance = position[:, None] - torch.arange(cells, device=edges.device)
    return (1 - distance.abs()).clamp(min=0)
