"""One scene of the rendered data "shapes": look-alike textured figures that overlap, in front of clutter.

All drawing is plain array arithmetic on masks that pycocotools rasterises. So a pixel belongs to exactly one thing, and
a polygon annotation rasterises to exactly the pixels that were painted. Coordinates are x, y in pixels of the image.
"""

import colorsys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util

CLASSES = ("disc", "triangle", "square", "star", "ring")
TEXTURES = ("plain", "stripes", "dots", "checker", "gradient", "noise")

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_EMPTY_SHARE = 0.06  # share of images without any instance
_ODD_COLOUR_SHARE = 0.15  # share of figures whose hue does not depend on their class
_LEAST_VISIBLE = 0.35  # smallest visible share of a figure's area; a figure that hides more of another is not placed
_LEAST_PIXELS = 24  # smallest number of visible pixels of an instance
_RING_HOLE = 0.5  # inner radius over outer radius


@dataclass(frozen=True)
class Look:
    """The common properties of look-alikes: class, texture, colours (RGB, 0-255), and whether they are rings."""

    label: int
    texture: str
    front: Array
    back: Array
    hollow: bool = False


@dataclass
class Figure:
    """One placed figure.

    Attributes:
        look: the class and the paint.
        polygon: (P, 2) float, the outline.
        full: (S, S) bool, all its pixels inside the image.
        visible: (S, S) bool, the pixels that no later figure hides.
    """

    look: Look
    polygon: Array
    full: Mask
    visible: Mask


@dataclass(frozen=True)
class Scene:
    """An image, (S, S, 3) uint8 RGB, and its figures, bottom first."""

    image: npt.NDArray[np.uint8]
    figures: list[Figure]


def render_scene(size: int, rng: np.random.Generator) -> Scene:
    """Draws a square scene of `size` pixels a side; everything random comes from `rng`."""
    canvas = background(size, rng)
    figures: list[Figure] = []
    count = 0 if rng.random() < _EMPTY_SHARE else int(rng.integers(3, 11))
    prototypes = [_random_look(rng) for _ in range(2)]
    for _ in range(count):
        # Most figures copy one of two prototypes, so that class and colour are not enough to tell copies apart.
        look = prototypes[int(rng.integers(2))] if rng.random() < 0.65 else _random_look(rng)
        for _attempt in range(8):
            if place(figures, _outline(look, size, rng, figures), look, size):
                paint(canvas, figures[-1], rng)
                break
    canvas += rng.normal(0.0, 4.0, canvas.shape)
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), figures)


def _random_look(rng: np.random.Generator) -> Look:
    label = int(rng.integers(len(CLASSES)))
    hue = rng.random() if rng.random() < _ODD_COLOUR_SHARE else label / len(CLASSES) + rng.uniform(-0.05, 0.05)
    front = colour(hue, rng.uniform(0.65, 1.0), rng.uniform(0.7, 1.0))
    back = colour(hue + rng.uniform(-0.04, 0.04), rng.uniform(0.3, 0.8), rng.uniform(0.3, 0.55))
    return Look(label, TEXTURES[int(rng.integers(len(TEXTURES)))], front, back, CLASSES[label] == "ring")


def colour(hue: float, saturation: float, value: float) -> Array:
    """RGB, 0-255, from hue (any real number, in turns), saturation and value, 0-1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value)) * 255.0


def background(size: int, rng: np.random.Generator) -> Array:
    """A dull two-colour gradient with patches and clutter: pieces of lines, which belong to no class."""
    y, x = np.mgrid[0:size, 0:size] / size
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)[..., None]
    ends = [colour(rng.random(), rng.uniform(0.0, 0.25), rng.uniform(0.25, 0.85)) for _ in range(2)]
    canvas = ends[0] * slope + ends[1] * (1 - slope)
    coarse = rng.normal(0.0, 14.0, (size // 16 + 2, size // 16 + 2, 3))
    canvas += np.kron(coarse, np.ones((16, 16, 1)))[:size, :size]
    for _ in range(int(rng.integers(4, 14))):
        start, direction = rng.uniform(0, size, 2), rng.uniform(0, np.pi)
        along = (x * size - start[0]) * np.cos(direction) + (y * size - start[1]) * np.sin(direction)
        across = (y * size - start[1]) * np.cos(direction) - (x * size - start[0]) * np.sin(direction)
        line = (np.abs(along) < rng.uniform(1, size / 5)) & (np.abs(across) < rng.uniform(0.6, 1.6))
        canvas[line] = colour(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.1, 0.9))
    return canvas


def _outline(look: Look, size: int, rng: np.random.Generator, figures: list[Figure]) -> Array:
    """A (P, 2) outline of random size and place, often near a figure that is there already, so that they overlap."""
    radius = size * float(np.exp(rng.uniform(np.log(0.055), np.log(0.24))))
    if figures and rng.random() < 0.5:
        other = figures[int(rng.integers(len(figures)))].polygon
        centre = other.mean(axis=0) + rng.normal(0.0, 0.6, 2) * (radius + np.ptp(other, axis=0) / 2)
    else:
        centre = rng.uniform(0, size, 2)
    centre = np.clip(centre, 0.3 * radius, size - 0.3 * radius)
    turn = rng.uniform(0, 2 * np.pi)
    if CLASSES[look.label] in ("disc", "ring"):
        angles, radii = np.arange(32) * 2 * np.pi / 32, np.ones(32)
    elif CLASSES[look.label] == "star":
        angles, radii = np.arange(10) * 2 * np.pi / 10, np.where(np.arange(10) % 2, 0.45, 1.15)
    else:
        corners = 3 if CLASSES[look.label] == "triangle" else 4
        angles, radii = np.arange(corners) * 2 * np.pi / corners, np.full(corners, 1.15)
    points = np.stack([np.cos(angles + turn), np.sin(angles + turn)], axis=1) * radii[:, None]
    return np.asarray(np.round(centre + radius * points, 2))


def place(figures: list[Figure], polygon: Array, look: Look, size: int, least_visible: float = _LEAST_VISIBLE) -> bool:
    """Adds the figure on top, unless less than `least_visible` of it or of another one would be visible."""
    full = rasterize(polygon, size)
    if look.hollow:
        full &= ~rasterize(ring_hole(polygon), size)
    whole = 0.5 * abs(np.sum(polygon[:, 0] * np.roll(polygon[:, 1], 1) - polygon[:, 1] * np.roll(polygon[:, 0], 1)))
    if full.sum() < max(_LEAST_PIXELS, least_visible * whole):
        return False
    near = [figure for figure in figures if _boxes_meet(figure.polygon, polygon)]
    remaining = [figure.visible & ~full for figure in near]
    for figure, rest in zip(near, remaining, strict=True):
        if rest.sum() < max(_LEAST_PIXELS, least_visible * figure.full.sum()):
            return False
    for figure, rest in zip(near, remaining, strict=True):
        figure.visible = rest
    figures.append(Figure(look, polygon, full, full.copy()))
    return True


def _boxes_meet(polygon: Array, other: Array) -> bool:
    """Whether the outlines' boxes, a pixel wider on every side, share a point. If not, neither hides the other."""
    low, high = polygon.min(axis=0) - 2, polygon.max(axis=0) + 2
    return bool(np.all((low <= other.max(axis=0)) & (other.min(axis=0) <= high)))


def ring_hole(polygon: Array) -> Array:
    """The inner outline, (P, 2), of a ring with this outer outline."""
    centre = polygon.mean(axis=0)
    return np.asarray(centre + _RING_HOLE * (polygon - centre))


def rasterize(polygon: Array, size: int) -> Mask:
    """(size, size) bool: the pixels that the COCO API puts inside the polygon."""
    return np.asarray(mask_util.decode(mask_util.frPyObjects([polygon.reshape(-1).tolist()], size, size))[..., 0] > 0)


def paint(canvas: Array, figure: Figure, rng: np.random.Generator) -> None:
    """Paints all of the figure's pixels, with a dark rim that separates it from its look-alikes."""
    rows, columns = np.nonzero(figure.full)
    centre = figure.polygon.mean(axis=0)
    angle = np.arctan2(*(figure.polygon[0] - centre)[::-1])
    u = (columns - centre[0]) * np.cos(angle) + (rows - centre[1]) * np.sin(angle)
    v = (rows - centre[1]) * np.cos(angle) - (columns - centre[0]) * np.sin(angle)
    weight = _texture(figure.look.texture, u, v, rng)[:, None]
    canvas[rows, columns] = figure.look.front * weight + figure.look.back * (1 - weight)
    inside = np.pad(figure.full, 1, mode="edge")
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    canvas[figure.full & ~core] *= 0.35


def _texture(kind: str, u: Array, v: Array, rng: np.random.Generator) -> Array:
    """How much of the front colour, 0 to 1, each point in the figure's own coordinates shows."""
    period = rng.uniform(5.0, 9.0)
    if kind == "stripes":
        return np.asarray(np.mod(u, period) < period / 2, dtype=np.float64)
    if kind == "dots":
        near = np.hypot(np.mod(u, period) - period / 2, np.mod(v, period) - period / 2)
        return np.asarray(near > period / 3, dtype=np.float64)
    if kind == "checker":
        return np.asarray((np.floor(u / period) + np.floor(v / period)) % 2)
    if kind == "gradient":
        return np.asarray((u - u.min()) / max(np.ptp(u), 1.0))
    if kind == "noise":
        return np.asarray(rng.uniform(0.3, 1.0, u.shape))
    return np.ones_like(u)
