"""Cutting polygons: a point of the window is inside of the cut polygon if and only if it was inside before."""

import numpy as np
import pytest

from adet_iuq.data.annotations.polygons import clip_polygon


def inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """(N,) bool: whether a ray from each point to the right crosses an odd number of edges."""
    start, end = polygon[None], np.roll(polygon, -1, axis=0)[None]
    x, y = points[:, None].transpose(2, 0, 1)
    rises = (start[..., 1] <= y) != (end[..., 1] <= y)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = start[..., 0] + (y - start[..., 1]) / (end - start)[..., 1] * (end - start)[..., 0]
    return (rises & (crossing > x)).sum(1) % 2 == 1


def star(rng: np.random.Generator) -> np.ndarray:
    """A concave polygon that the window cuts into pieces."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, 24))
    radii = rng.uniform(5, 60, 24)
    return 50 + rng.uniform(-30, 30, 2) + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.mark.parametrize("seed", range(20))
def test_the_window_shows_what_it_showed_before(seed: int) -> None:
    rng = np.random.default_rng(seed)
    polygon = star(rng)
    cut = clip_polygon(polygon, 70, 60)
    points = rng.uniform(0, [70, 60], (4000, 2))
    expected = inside(points, polygon)
    assert np.array_equal(inside(points, cut), expected) and expected.any()
    assert (cut >= 0).all() and (cut <= [70, 60]).all()


def test_box_and_area_of_a_polygon_that_falls_into_pieces() -> None:
    comb = np.array([[-5, 0], [10, 0], [10, 2], [-2, 2], [-2, 4], [10, 4], [10, 6], [-5, 6]], dtype=np.float64)
    cut = clip_polygon(comb, 8, 20)
    assert cut.min(axis=0).tolist() == [0, 0] and cut.max(axis=0).tolist() == [8, 6]
    x, y = cut.T
    assert 0.5 * abs((x * np.roll(y, 1) - y * np.roll(x, 1)).sum()) == 8 * 2 * 2


def test_inside_is_untouched_and_outside_is_empty() -> None:
    triangle = np.array([[1.5, 2.0], [7.0, 0.0], [8.0, 8.0]])
    assert clip_polygon(triangle, 8, 8) is triangle
    assert clip_polygon(triangle + np.array([8.0, 0.0]), 8, 8).shape == (0, 2)
    assert clip_polygon(triangle - np.array([0.0, 8.0]), 8, 8).shape == (0, 2)  # touches the border in a point


def test_a_corner_outside_of_two_sides() -> None:
    square = np.array([[-4.0, -4.0], [2.0, -4.0], [2.0, 2.0], [-4.0, 2.0]])
    assert sorted(clip_polygon(square, 10, 10).tolist()) == [[0, 0], [0, 2], [2, 0], [2, 2]]
