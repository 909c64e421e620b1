"""Which images may have their width and height swapped in a JSON file: what their annotations say about it.

An annotation may lie inside an image of the claimed size, inside one of the transposed size, in both or in neither. Only
when all annotations of an image are seen do they tell; so the pass collects them here, and is made once more, with the true
sizes, if image files confirm that sides are swapped.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from adet_iuq.data.annotations.segmentation import OUTSIDE, rle_problem

Array = npt.NDArray[np.float64]
Entry = dict[str, Any]


class Sides:
    """What the annotations seen so far say."""

    def __init__(self) -> None:
        self._claimed: set[Any] = set()  # ids of images with an annotation that fits the claimed size only
        self._transposed: dict[Any, Entry] = {}  # images, by id, with one that fits the transposed size only

    def see_outlines(self, images: Sequence[Entry], bounds: Array, sizes: Array) -> None:
        """Notes N polygon segmentations.

        Args:
            images: N, of the annotations.
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
        """Notes a run-length mask; `fits`: it serves in the claimed size."""
        if fits:
            self._claimed.add(image["id"])
        elif rle_problem(rle, image["width"], image["height"]) is None:
            self._transposed[image["id"]] = image

    def suspects(self) -> Iterator[Entry]:
        """Images with annotations that fit the transposed size only, and none that fits the claimed size only."""
        return (image for identity, image in self._transposed.items() if identity not in self._claimed)
