"""From patches to masks of the output size, a few at a time."""

from collections.abc import Iterator

from detectron2.layers import paste_masks_in_image
from torch import Tensor

_CHUNK_BYTES = 64 * 1024**2  # of the float maps that exist at one time


def pasted_patches(patches: Tensor, boxes: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Draws patches into their boxes, bilinearly; a pixel is in from a half on.

    Args:
        patches: (N, m, m) bool.
        boxes: (N, 4) XYXY in pixels of the output; they may reach outside.
        size: (height, width) of the output.

    Yields:
        (n, height, width) bool.
    """
    step = max(1, _CHUNK_BYTES // (4 * size[0] * size[1]))
    for start in range(0, len(patches), step):
        part = slice(start, start + step)
        yield paste_masks_in_image(patches[part].float(), boxes[part], size, threshold=0.5)
