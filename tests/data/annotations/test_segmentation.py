"""Which segmentations are usable: pycocotools crashes on some that are not."""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from adet_iuq.data.annotations.segmentation import (
    _decoded_runs,
    has_area,
    is_usable_box,
    is_valid_box,
    rle_problem,
    segmentation_box,
    valid_parts,
)


def test_runs_equal_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        mask = np.asfortranarray(rng.random((height, width)) < rng.random(), dtype=np.uint8)
        rle = mask_util.encode(mask)
        assert rle_problem(rle, height, width) is None
        runs = _decoded_runs(rle["counts"])
        assert runs is not None
        assert np.array_equal(np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T, mask)


def test_long_runs() -> None:
    mask = np.zeros((900, 1400), dtype=np.uint8, order="F")
    mask[5, 1300] = mask[0, 0] = 1
    assert rle_problem(mask_util.encode(mask), 900, 1400) is None


@pytest.mark.parametrize("counts", [b"", b"zzzz", b"~~", b"\x00", "é", "00000000", None, 5, [3, 4], [700, -100], ["a"]])
def test_broken_counts(counts: Any) -> None:
    assert rle_problem({"size": [20, 30], "counts": counts}, 20, 30)


def test_truncated_counts_and_wrong_size() -> None:
    mask = np.zeros((20, 30), dtype=np.uint8, order="F")
    mask[3:9, 4:12] = 1
    rle = mask_util.encode(mask)
    assert rle_problem({**rle, "counts": rle["counts"][:-1]}, 20, 30)
    assert "height 30" in str(rle_problem(rle, 30, 20))
    assert rle_problem({"size": [2, 3], "counts": [2, 4]}, 2, 3) is None


def test_polygon_parts_need_three_finite_points() -> None:
    good = [0, 0, 4, 0, 4, 4]
    bad: list[Any] = [[0, 0, 4, 0], [0, 0, 4, 0, 4, 4, 1], [0, 0, 4, 0, 4, float("nan")], [0, 0, 4, 0, 4, "1"], 5]
    assert valid_parts([*bad, good]) == [good]
    assert valid_parts(None) == valid_parts([]) == valid_parts({}) == []


def test_area() -> None:
    line, point, triangle = [1, 1, 2, 2, 3, 3], [5, 5, 5, 5, 5, 5], [1, 1, 4, 1, 4, 4]
    slanted = [0.1, 0.1, 0.2, 0.2, 0.7, 0.7]  # not quite on a line in binary
    assert has_area([line, triangle], 20, 30)
    assert not has_area([line, point, slanted], 20, 30)
    assert has_area([[0, 0, 4, 4, 4, 0, 0, 4]], 20, 30)  # a figure of eight: the signed area is 0
    assert has_area([[1, 1, 1, 1, 1, 1, 4, 1, 4, 4]], 20, 30)
    for x, y in ((30, 0), (-4, 0), (0, 20), (0, -4)):
        assert not has_area([[x, y, x + 4, y, x + 4, y + 4]], 20, 30)
    assert has_area([[30, 0, 34, 0, 34, 4]], None, None)
    assert has_area({"size": [2, 3], "counts": [2, 4]}, 2, 3)
    assert not has_area({"size": [2, 3], "counts": [6]}, 2, 3)
    empty, full = (mask_util.encode(np.full((20, 30), value, dtype=np.uint8, order="F")) for value in (0, 1))
    assert not has_area(empty, 20, 30) and has_area(full, 20, 30)


def test_boxes() -> None:
    assert is_valid_box([0, 0, 1, 2])
    for box in (None, [], [0, 0, 0, 2], [0, 0, 1], [0, 0, float("inf"), 1], ["a", 0, 1, 1]):
        assert not is_valid_box(box)
    assert is_usable_box([-3, 5, 4, 2], 20, 30) and is_usable_box([29, 19, 4, 2], 20, 30)
    assert is_usable_box([90, 90, 1, 1], None, None) and not is_usable_box([0, 0, 0, 2], None, None)
    for box in ([-4, 0, 4, 2], [0, -2, 4, 2], [30, 0, 4, 2], [0, 20, 4, 2], None):
        assert not is_usable_box(box, 20, 30)
    assert segmentation_box([[1, 2, 5, 2, 5, 9], [0, 4, 1, 4, 1, 5]]) == [0, 2, 5, 7]
    mask = np.zeros((20, 30), dtype=np.uint8, order="F")
    mask[3:9, 4:12] = 1
    assert segmentation_box(mask_util.encode(mask)) == [4, 3, 8, 6]
