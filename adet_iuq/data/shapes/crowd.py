"""A crowded scene of the rendered data "shapes": 20 to 40 eggs of one look and nearly one size, which touch and overlap.

Class, colour, texture and size do not tell one egg from another; only place and the rim do. Instance-unique queries are
meant for such scenes. The functions that draw are those of the mixed scenes (render.py).
"""

import numpy as np

from adet_iuq.data.shapes.render import Array, Figure, Look, Scene, background, colour, paint, place

CROWD_CLASSES = ("egg",)

_COUNT = (20, 41)  # number of eggs that are tried, the second number excluded
_LEAST_VISIBLE = 0.75  # smallest visible share of an egg's own area
_NOISE = 10.0  # standard deviation, with 255 as the largest value
_ATTEMPTS = 100
_CORNERS = 32
_TEXTURES = ("plain", "gradient", "noise")


def render_crowd(size: int, rng: np.random.Generator) -> Scene:
    """Draws a square scene of `size` pixels a side; everything random comes from `rng`."""
    canvas = background(size, rng)
    look = _look(rng)
    long_axis = size * rng.uniform(0.075, 0.085)
    axes = np.array([long_axis, long_axis * rng.uniform(0.6, 0.75)])  # half axes of the scene's eggs
    figures: list[Figure] = []
    for _ in range(int(rng.integers(*_COUNT))):
        for _attempt in range(_ATTEMPTS):
            if place(figures, _outline(axes, size, rng, figures), look, size, _LEAST_VISIBLE):
                paint(canvas, figures[-1], rng)
                break
    canvas += rng.normal(0.0, _NOISE, canvas.shape)
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), figures)


def _look(rng: np.random.Generator) -> Look:
    """The one look of a scene: a pale colour that fades into a darker one of nearly the same hue."""
    hue = rng.random()
    front = colour(hue, rng.uniform(0.1, 0.5), rng.uniform(0.65, 0.95))
    back = colour(hue + rng.uniform(-0.04, 0.04), rng.uniform(0.1, 0.5), rng.uniform(0.4, 0.6))
    return Look(0, _TEXTURES[int(rng.integers(len(_TEXTURES)))], front, back)


def _outline(axes: Array, size: int, rng: np.random.Generator, figures: list[Figure]) -> Array:
    """A (P, 2) outline at any angle, mostly one that touches an egg that is there already or overlaps it a little."""
    angles, turn = np.arange(_CORNERS) * 2 * np.pi / _CORNERS, rng.uniform(0, 2 * np.pi)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * axes * rng.uniform(0.95, 1.05)
    points = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    if figures and rng.random() < 0.85:
        other = figures[int(rng.integers(len(figures)))].polygon
        away = rng.uniform(0, 2 * np.pi)
        direction = np.array([np.cos(away), np.sin(away)])
        middle = other.mean(axis=0)
        # The reach of both outlines along the line between their centres: at this distance they just touch.
        reach = np.max((other - middle) @ direction) + np.max(-(points @ direction))
        centre = middle + direction * reach * rng.uniform(0.8, 1.0)
    else:
        centre = rng.uniform(0, size, 2)
    return np.asarray(np.round(np.clip(centre, 0, size) + points, 2))
