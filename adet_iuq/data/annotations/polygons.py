"""Cuts polygons to a window without shapely."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def clip_polygon(points: Array, width: float, height: float) -> Array:
    """The part of a polygon inside 0 <= x <= width, 0 <= y <= height; (0, 2) if there is none.

    The method is Sutherland-Hodgman's. If a concave polygon falls into pieces, edges along the window's border join them.
    They enclose nothing and lie between the pieces, so area, bounding box and rasterised pixels are those of the pieces.

    Args:
        points: (P, 2) x, y.
        width: the width of the window.
        height: the height of the window.
    """
    for axis, bound, sign in ((0, 0.0, 1.0), (0, width, -1.0), (1, 0.0, 1.0), (1, height, -1.0)):
        inside = sign * (points[:, axis] - bound)
        if not len(points) or inside.min() >= 0:
            continue
        if inside.max() <= 0:
            return np.zeros((0, 2))
        points = _clip_side(points, inside, axis, bound)
    return points


def _clip_side(points: Array, inside: Array, axis: int, bound: float) -> Array:
    """Keeps the points with `inside` >= 0, and inserts the points where an edge crosses the bound."""
    after, inside_after = np.roll(points, -1, axis=0), np.roll(inside, -1)
    crosses = (inside < 0) != (inside_after < 0)
    share = inside[crosses] / (inside[crosses] - inside_after[crosses])
    crossings = np.full_like(points, np.nan)
    crossings[crosses] = points[crosses] + share[:, None] * (after - points)[crosses]
    crossings[crosses, axis] = bound
    both = np.stack([points, crossings], axis=1).reshape(-1, 2)
    return both[np.stack([inside >= 0, crosses], axis=1).reshape(-1)]
