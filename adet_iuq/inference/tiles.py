"""Tiles for small objects: windows of a large picture, each of which passes the network at the test resolution.

Objects no larger than the overlap of two tiles lie whole in at least one of them, wherever they are. All tiles may cut
a larger object; the whole picture is used for these.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from adet_iuq.errors import UserError
from adet_iuq.inference.parts import Part, Size, Window

_MARGIN = 0.01  # share of a tile's side; masks may end this short of the border that cuts their object


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut into tiles.

    Attributes:
        size: (height, width) of a tile in pixels of the picture.
        overlap: the smallest overlap of neighbours, as a share of the tile.
        whole: whether the picture as a whole is used as well, for objects larger than the overlap.

    Raises:
        UserError: a number is not possible.
    """

    size: Size
    overlap: float = 0.2
    whole: bool = True

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"Tiles of {self.size}: give their height and width in pixels, such as 640 640.")
        if not 0 <= self.overlap < 1:
            raise UserError(f"An overlap of {self.overlap}: it is a share of the tile, from 0 to below 1, such as 0.2.")

    def windows(self, size: Size) -> list[Window]:
        """The tiles of a picture, row by row. All have the same size; if the picture is smaller, its size."""
        rows, columns = (_starts(*sides, self.overlap) for sides in zip(size, self.size, strict=True))
        height, width = (min(sides) for sides in zip(size, self.size, strict=True))
        return [(x, y, x + width, y + height) for y in rows for x in columns]

    @property
    def margin(self) -> int:
        """The distance in pixels from a border within which objects count as cut by it."""
        return max(1, round(_MARGIN * min(self.size)))

    def is_large(self, part: Part, size: Size) -> bool:
        """Whether tiles may have cut an object that was found in the whole picture."""
        sides = (part.box[3] - part.box[1], part.box[2] - part.box[0])
        return any(
            bool(side > _least_overlap(_starts(whole, tile, self.overlap), tile) - 2 * self.margin)
            for side, whole, tile in zip(sides, size, self.size, strict=True)
        )


def _starts(whole: int, tile: int, overlap: float) -> list[int]:
    """The first pixels of the tiles along one side, evenly spread, so that the last tile ends with the picture."""
    if tile >= whole:
        return [0]
    step = max(1, math.floor(tile * (1 - overlap)))
    count = math.ceil((whole - tile) / step) + 1
    return [round(index * (whole - tile) / (count - 1)) for index in range(count)]


def _least_overlap(starts: list[int], tile: int) -> float:
    """The smallest overlap of neighbours along one side, in pixels; if there is one tile only, nothing is cut."""
    return min((first + tile - second for first, second in pairwise(starts)), default=math.inf)
