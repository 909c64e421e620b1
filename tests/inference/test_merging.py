"""One detection an object: each rule of the merger, and what simpler rules would do."""

import numpy as np
import pytest

from adet_iuq.inference.merging import merged
from adet_iuq.inference.parts import Part, Window, is_cut

SIZE = (100, 180)
LEFT, RIGHT = (0, 0, 100, 100), (80, 0, 180, 100)  # two tiles that share 20 columns


def seen(picture: np.ndarray, window: Window, score: float, label: int = 0) -> Part:
    """The part of an object (H, W) bool that a window shows."""
    x0, y0, x1, y1 = window
    rows, columns = np.nonzero(picture[y0:y1, x0:x1])
    place = (x0 + columns.min(), y0 + rows.min(), x0 + columns.max() + 1, y0 + rows.max() + 1)
    mask = picture[place[1] : place[3], place[0] : place[2]]
    where = (int(place[0]), int(place[1]), int(place[2]), int(place[3]))
    return Part(label, score, np.array(where, dtype=np.float32), where, mask, window, is_cut(where, window, SIZE, 1))


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    picture = np.zeros(SIZE, dtype=bool)
    picture[y0:y1, x0:x1] = True
    return picture


def boxes(parts: list[Part]) -> list[list[float]]:
    return [part.box.tolist() for part in parts]


def test_what_two_tiles_see_whole_is_one_object_with_the_better_score() -> None:
    one = rectangle(82, 10, 98, 30)
    (found,) = merged([seen(one, LEFT, 0.6), seen(one, RIGHT, 0.8)])
    assert found.score == 0.8 and found.window == RIGHT


def test_a_fragment_gives_way_to_the_whole_object_even_with_a_better_score() -> None:
    one = rectangle(85, 10, 120, 30)  # cut at column 100 of the left tile
    fragment, whole = seen(one, LEFT, 0.95), seen(one, RIGHT, 0.5)
    assert fragment.cut and not whole.cut
    (found,) = merged([fragment, whole])
    assert boxes([found]) == [[85, 10, 120, 30]]


def test_a_sliver_is_a_fragment_though_their_union_is_nearly_all_of_the_object() -> None:
    one = rectangle(98, 10, 150, 60)
    assert boxes(merged([seen(one, LEFT, 0.9), seen(one, RIGHT, 0.8)])) == [[98, 10, 150, 60]]


def test_a_small_object_on_a_large_one_stays() -> None:
    """Intersection over the smaller one would be 1."""
    large, small = rectangle(81, 5, 99, 95), rectangle(85, 40, 95, 50)
    assert len(merged([seen(large, LEFT, 0.9), seen(small, RIGHT, 0.8)])) == 2


def test_fragments_of_an_object_larger_than_the_overlap_are_united() -> None:
    one = rectangle(30, 20, 150, 40)
    (found,) = merged([seen(one, LEFT, 0.7), seen(one, RIGHT, 0.9)])
    assert boxes([found]) == [[30, 20, 150, 40]] and found.score == 0.9
    assert found.mask is not None and found.mask.shape == (20, 120) and found.mask.all()


def test_fragments_are_united_along_a_chain_of_tiles() -> None:
    tiles: list[Window] = [(0, 0, 70, 100), (55, 0, 125, 100), (110, 0, 180, 100)]
    one = rectangle(10, 20, 170, 40)
    for order in ((0, 1, 2), (2, 0, 1), (1, 0, 2)):  # of their scores; in the second, the last one joins the first two
        (found,) = merged([seen(one, tiles[index], 0.9 - 0.1 * rank) for rank, index in enumerate(order)])
        assert boxes([found]) == [[10, 20, 170, 40]] and found.score == 0.9
        assert found.mask is not None and found.mask.all()


def test_neighbours_at_a_border_are_not_united() -> None:
    above, below = rectangle(30, 20, 150, 40), rectangle(30, 40, 150, 60)
    parts = [seen(one, tile, score) for one, score in ((above, 0.9), (below, 0.8)) for tile in (LEFT, RIGHT)]
    assert boxes(merged(parts)) == [[30, 20, 150, 40], [30, 40, 150, 60]]


def test_classes_are_kept_apart() -> None:
    one = rectangle(82, 10, 98, 30)
    assert len(merged([seen(one, LEFT, 0.6), seen(one, RIGHT, 0.8, label=1)])) == 2


def test_what_one_look_has_found_is_left_as_it_is() -> None:
    one = rectangle(20, 10, 60, 30)
    assert len(merged([seen(one, LEFT, 0.6), seen(one, LEFT, 0.8)])) == 2


def test_the_whole_image_has_the_object_and_tiles_have_fragments() -> None:
    one = rectangle(30, 20, 150, 40)
    parts = [seen(one, LEFT, 0.9), seen(one, RIGHT, 0.95), seen(one, (0, 0, 180, 100), 0.4)]
    (found,) = merged(parts)
    assert found.score == 0.4 and boxes([found]) == [[30, 20, 150, 40]]


def test_without_masks_boxes_are_compared() -> None:
    one = np.array([82, 10, 98, 30], dtype=np.float32)
    parts = [Part(0, 0.6, one, None, None, LEFT, False), Part(0, 0.8, one + 0.4, None, None, RIGHT, False)]
    assert [part.score for part in merged(parts)] == [0.8]
    pieces = [
        Part(0, 0.6, np.array([30, 20, 100, 40], dtype=np.float32), None, None, LEFT, True),
        Part(0, 0.8, np.array([80, 20, 150, 40], dtype=np.float32), None, None, RIGHT, True),
    ]
    assert boxes(merged(pieces)) == [[30, 20, 150, 40]]


def test_nothing_and_empty_masks() -> None:
    assert merged([]) == []
    empty = Part(0, 0.5, np.zeros(4, np.float32), (80, 0, 80, 0), np.zeros((0, 0), bool), RIGHT, False)
    assert len(merged([empty, seen(rectangle(82, 0, 98, 30), LEFT, 0.6)])) == 2


@pytest.mark.parametrize("seed", range(3))
def test_against_a_slow_twin(seed: int) -> None:
    """Whole objects only: greedy suppression with intersection over union on full-size masks."""
    generator = np.random.default_rng(seed)
    parts, full = [], []
    for _ in range(80):
        x, y = generator.integers(80, 92), generator.integers(0, 50)
        picture = rectangle(int(x), int(y), int(x + generator.integers(3, 8)), int(y + generator.integers(3, 12)))
        part = seen(picture, LEFT if generator.random() < 0.5 else RIGHT, float(generator.random()))
        part.cut = False
        parts.append(part)
        full.append(picture)
    kept: list[int] = []
    for index in sorted(range(80), key=lambda i: -parts[i].score):
        others = [other for other in kept if parts[other].window != parts[index].window]
        ious = [(full[index] & full[other]).sum() / (full[index] | full[other]).sum() for other in others]
        if max(ious, default=0) <= 0.5:
            kept.append(index)
    assert [part.score for part in merged(parts)] == [parts[index].score for index in kept]
    assert len(kept) < 80
