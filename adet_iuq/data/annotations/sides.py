"""Collects evidence from annotations that the width and height of images are swapped in a JSON file.

An annotation may lie inside an image of the claimed size, inside one of the transposed size, in both or in neither.
Only all annotations of an image together give evidence. So the pass collects it here, and if the image files confirm
that sides are swapped, a second pass uses the true sizes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from adet_iuq.data.annotations.segmentation import OUTSIDE, rle_problem

Array = npt.NDArray[np.float64]
Entry = dict[str, Any]


class Sides:
    """The evidence of the annotations seen so far."""

    def __init__(self) -> None:
        self._claimed: set[Any] = set()  # ids of images with an annotation that fits only the claimed size
        self._transposed: dict[Any, Entry] = {}  # images, by id, with one that fits only the transposed size

    def see_outlines(self, images: Sequence[Entry], bounds: Array, sizes: Array) -> None:
        """Notes N polygon segmentations.

        Args:
            images: the N images of the annotations.
            bounds: (N, 4) x0, y0, x1, y1 around the points in pixels.
            sizes: (N, 2) claimed width and height of the images.
        """
        low = (-bounds[:, :2]).max(axis=1)
        claimed, transposed = (
            np.maximum(low, (bounds[:, 2:] - size).max(axis=1)) <= OUTSIDE for size in (sizes, sizes[:, ::-1])
        )
        self._claimed.update(images[index]["id"] for index in np.flatnonzero(claimed & ~transposed).tolist())
        for index in np.flatnonzero(transposed & ~claimed).tolist():
            self._transposed[images[index]["id"]] = images[index]

    def see_mask(self, image: Entry, rle: Entry, fits: bool) -> None:
        """Notes a run-length mask; `fits` says whether it has the claimed size."""
        if fits:
            self._claimed.add(image["id"])
        elif rle_problem(rle, image["width"], image["height"]) is None:
            self._transposed[image["id"]] = image

    def suspects(self) -> Iterator[Entry]:
        """Images with annotations that fit only the transposed size, and none that fits only the claimed size."""
        return (image for identity, image in self._transposed.items() if identity not in self._claimed)
