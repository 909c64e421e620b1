"""Gives COCO's and LVIS's ground truth the sizes that images have in their files.

The mapper gives a record the height and width of its image, and predicted masks have that size. If an entry of the JSON
file swaps the two, its annotations would be rasterised in another size, and masks of two sizes never match.
"""

import itertools
from typing import Any

from detectron2.utils import comm


class ImageSizes:
    """The sizes of the images that this process evaluated."""

    def __init__(self) -> None:
        self._found: dict[Any, dict[str, int]] = {}

    def note(self, inputs: list[dict[str, Any]]) -> None:
        """Notes `height` and `width` of some inputs of the model, if a mapper gives them."""
        for image in inputs:
            self._found[image["image_id"]] = {side: image[side] for side in ("height", "width") if side in image}

    def gather(self) -> dict[Any, dict[str, int]]:
        """The sizes that all processes noted, on the main process; every process must call it."""
        return dict(itertools.chain(*(found.items() for found in comm.gather(self._found))))
