"""Where tiles lie."""

from itertools import pairwise

import numpy as np
import pytest

from adet_iuq.inference.parts import Part
from adet_iuq.inference.tiles import Tiling


@pytest.mark.parametrize("size", [(100, 100), (250, 99), (301, 733), (100, 101), (1, 500)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.95])
def test_tiles_cover_the_image_and_overlap_as_asked(size: tuple[int, int], overlap: float) -> None:
    windows = Tiling((100, 120), overlap).windows(size)
    covered = np.zeros(size, dtype=int)
    for x0, y0, x1, y1 in windows:
        assert 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]
        assert (y1 - y0, x1 - x0) == (min(100, size[0]), min(120, size[1]))
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1
    for side, tile in ((0, 120), (1, 100)):
        starts = sorted({window[side] for window in windows})
        assert all(second - first <= tile - int(tile * overlap) for first, second in pairwise(starts))
    assert len(windows) == len(set(windows))


def test_every_object_up_to_the_overlap_is_whole_in_a_tile() -> None:
    windows = Tiling((100, 100), 0.25).windows((420, 333))
    for x in range(333 - 25):
        for y in range(0, 420 - 25, 7):
            assert any(x0 <= x and x + 25 <= x1 and y0 <= y and y + 25 <= y1 for x0, y0, x1, y1 in windows), (x, y)


def test_large_is_what_tiles_may_cut() -> None:
    def part(width: float, height: float) -> Part:
        box = np.array([0, 0, width, height], dtype=np.float32)
        return Part(0, 0.9, box, None, None, (0, 0, 500, 500), cut=False)

    tiling = Tiling((100, 100), 0.2)
    assert tiling.is_large(part(40, 5), (500, 500)) and tiling.is_large(part(5, 40), (500, 500))
    assert not tiling.is_large(part(10, 10), (500, 500))
    assert not tiling.is_large(part(90, 5), (500, 100))  # one column of tiles: nothing is cut from left to right
