"""Which segmentations are usable: pycocotools crashes on some that are not."""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from adet_iuq.data.annotations.segmentation import (
    _decoded_runs,
    compressed,
    is_valid_box,
    mask_area,
    read_parts,
    rle_problem,
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


@pytest.mark.parametrize(
    "given",
    [
        [0, 0, 4, 0, 4, 4],
        [[0, 0], [4, 0], [4, 4]],
        [[[0, 0], [4, 0], [4, 4]]],
        [[[0, 0, 4, 0, 4, 4]]],
        [["0", "0", "4", 0, 4, 4.0]],
    ],
)
def test_forms_of_a_polygon_that_mean_one_thing(given: Any) -> None:
    assert read_parts(given) == ([[0, 0, 4, 0, 4, 4]], 0)


def test_forms_of_a_polygon_that_mean_nothing() -> None:
    assert read_parts([[0, 0], [4, 0]]) == ([], 2)
    assert read_parts([[0, 0, 4, 0, 4, 4], [1, 1]]) == ([[0, 0, 4, 0, 4, 4]], 1)
    assert read_parts([{"x": 0}]) == read_parts([0, 0, 4, 0, 4, float("inf")]) == ([], 1)
    assert read_parts("0 0 4 0 4 4") == read_parts({}) == read_parts(None) == read_parts([]) == ([], 0)


def test_brackets_without_end() -> None:
    polygon: Any = [0, 0, 4, 0, 4, 4]
    for depth in range(950):
        assert read_parts(polygon) == (([[0, 0, 4, 0, 4, 4]], 0) if depth < 16 else ([], 1))
        polygon = [polygon]


def test_runs_as_numbers_of_any_kind() -> None:
    rle = {"size": [2.0, 3.0], "counts": [2.0, 4]}
    assert rle_problem(rle, 2, 3) is None and mask_area(rle) == 4
    assert compressed(rle, 2, 3) == mask_util.frPyObjects({"size": [2, 3], "counts": [2, 4]}, 2, 3)
    whole = compressed(rle, 2, 3)
    assert compressed(whole, 2, 3) is whole and mask_area(whole) == 4
    assert rle_problem({"size": [2, 3], "counts": [2.5, 3.5]}, 2, 3) and rle_problem({"size": "23", "counts": []}, 2, 3)
    assert rle_problem({"size": [2, 3], "counts": [10**30, 6 - 10**30]}, 2, 3)


def test_boxes() -> None:
    assert is_valid_box([0, 0, 1, 2])
    for box in (
        None,
        [],
        [0, 0, 0, 2],
        [0, 0, 1],
        [0, 0, float("inf"), 1],
        ["a", 0, 1, 1],
        {"x": 1},
        [0, 0, 10**400, 1],
    ):
        assert not is_valid_box(box)
