"""Draws `query_maps`: an instance, and where its query fires, with one row per model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from adet_iuq.visualization.query_maps import FIRES, HeatMap, QueryMaps
from adet_iuq.visualization.query_models import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL = 2.5  # inches, the longer side of an image
_TOP, _BOTTOM, _LEFT, _RIGHT = 1.25, 0.42, 0.45, 1.0  # inches, margins
_DPI = 130
_COLOURS = "inferno"
_OUTLINE = "#35e0ff"
_INK = "#1c1c28"


@dataclass(frozen=True)
class Row:
    """The results of one model.

    Attributes:
        name: the model's name; empty if there is only one model.
        maps: the maps of the instance's query.
        num_sharing: the number of other detections of the model that share the instance's mask.
    """

    name: str
    maps: QueryMaps
    num_sharing: int


def draw_queries(
    picture: Picture, mask: npt.NDArray[np.bool_], label: str, others: Sequence[Picture], rows: Sequence[Row]
) -> npt.NDArray[np.uint8]:
    """Draws the picture, (H, W, 3) uint8 RGB.

    Args:
        picture: the picture of the instance.
        mask: (h, w), the mask of the instance.
        label: the instance's name in the title.
        others: the other pictures, as many as each row has maps.
        rows: the models' results, at least one.
    """
    pictures = [picture, picture, *others]
    tallest = max(one.rgb.shape[0] / max(one.rgb.shape[:2]) for one in pictures)
    panel, gap = _PANEL * tallest, 0.5
    width = _PANEL * len(pictures) + _LEFT + _RIGHT
    height = panel * len(rows) + gap * (len(rows) - 1) + _TOP + _BOTTOM
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(rows), len(pictures), left=_LEFT / width, right=1 - _RIGHT / width, top=1 - _TOP / height,
        bottom=_BOTTOM / height, wspace=0.05, hspace=gap / panel,
    )  # fmt: skip
    for number, row in enumerate(rows):
        panels = [figure.add_subplot(grid[number, column]) for column in range(len(pictures))]
        _outlined(panels[0], picture.rgb, mask, _shared(row.num_sharing))
        panels[0].set_ylabel(row.name, fontsize=15, fontweight="bold", color=_INK, labelpad=8)
        _heated(panels[1], picture.rgb, row.maps.own, f"fires on {row.maps.own.fire_rate:.1f} % of it")
        panels[1].contour(mask, levels=[0.5], colors=[_OUTLINE], linewidths=0.9)
        for panel, other, heat in zip(panels[2:], others, row.maps.others, strict=True):
            _heated(panel, other.rgb, heat, f"fires on {heat.fire_rate:.1f} %")
        if not number:
            _head(panels, label, mask, others)
    _title(figure, label, picture.name)
    _colour_bar(figure, width, height)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _head(panels: list["Axes"], label: str, mask: npt.NDArray[np.bool_], others: Sequence[Picture]) -> None:
    """Writes the titles of the columns."""
    titles = [f"the instance\n{100 * mask.mean():.1f} % of its image", "its query\non its own image"]
    titles += [f"on another image\n{_short(other.name)}" for other in others]
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(_plain(title), fontsize=11.5, color=_INK, linespacing=1.35, pad=6)


def _title(figure: Figure, label: str, name: str) -> None:
    left, height = _LEFT / figure.get_figwidth(), figure.get_figheight()
    title = "Where the query of one instance fires"
    figure.text(left, 1 - 0.12 / height, title, va="top", fontsize=15, fontweight="bold", color=_INK)
    below = _plain(f"{label} in {_short(name, 48)}")
    figure.text(left, 1 - 0.42 / height, below, va="top", fontsize=11.5, color=_INK)


def _colour_bar(figure: Figure, width: float, height: float) -> None:
    """Draws the colour bar at the right, with a mark where queries begin to fire."""
    inside = height - _TOP - _BOTTOM
    tall = min(2.2, 0.8 * inside)
    axes = figure.add_axes((1 - 0.82 / width, (_BOTTOM + (inside - tall) / 2) / height, 0.15 / width, tall / height))
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), _COLOURS), cax=axes, ticks=[0, FIRES, 1])
    axes.axhline(FIRES, color="white", linewidth=1.4)
    bar.ax.set_yticklabels(["0", "0.5\nfires", "1"], fontsize=10, color=_INK)
    bar.ax.set_title("probability", fontsize=10, color=_INK, pad=7, x=1.6)
    bar.outline.set_visible(False)


def _outlined(panel: "Axes", rgb: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], caption: str) -> None:
    """Draws the image with the outline of the mask."""
    panel.imshow(rgb)
    outline = panel.contour(mask, levels=[0.5], colors=[_OUTLINE], linewidths=1.8)
    outline.set_path_effects([withStroke(linewidth=3.4, foreground="#10202a")])
    _caption(panel, caption)


def _heated(panel: "Axes", rgb: npt.NDArray[np.uint8], heat: HeatMap, caption: str) -> None:
    """Draws the heat map over a grey image, which fades where the query fires; white lines surround these places."""
    grey = rgb.mean(axis=2) / 255
    hot = heat.at_pixels(rgb.shape[:2])
    panel.imshow(0.25 + 0.75 * grey, cmap="gray", vmin=0, vmax=1)
    panel.imshow(hot, cmap=_COLOURS, vmin=0, vmax=1, alpha=0.3 + 0.6 * hot)
    if hot.min() <= FIRES < hot.max():
        panel.contour(hot, levels=[FIRES], colors=["white"], linewidths=1.0)
    _caption(panel, caption)


def _caption(panel: "Axes", text: str) -> None:
    panel.set_xlabel(text, fontsize=11.5, color=_INK, labelpad=5)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_anchor("N")
    for spine in panel.spines.values():
        spine.set_visible(False)


def _shared(number: int) -> str:
    """Says how many other detections share the mask."""
    return {0: "no other detection shares it", 1: "1 other detection shares it"}.get(
        number, f"{number} other detections share it"
    )


def _short(name: str, length: int = 26) -> str:
    """A file's name, shortened in the middle if it is long."""
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"


def _plain(text: str) -> str:
    """The text without matplotlib's formulas, because a name may contain dollar signs."""
    return text.replace("$", r"\$")
