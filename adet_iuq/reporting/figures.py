"""The report's diagrams as SVG text, which is part of the page and takes the page's colours, light or dark.

Text stays text, so that a phone's own fonts draw it and names need no glyphs here. The parts of the frame are drawn in
a colour that nothing else has, which afterwards becomes `currentColor`. The first line's blue is too dark on black and
becomes the page's `--first`.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from adet_iuq.reporting.history import Panel
from adet_iuq.reporting.scores import Curve

_FRAME = "#0b0c0d"  # it becomes currentColor
# Those of Okabe and Ito's colours that show on white and on black; people tell them apart with any colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_STYLE = {
    "svg.hashsalt": "adet_iuq",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a class name is a dollar sign
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.use_mathtext": False,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _FRAME),
}
_SIZE = (4.2, 2.7)  # inches
_LONGEST = 28  # largest number of characters of a label


def history_figure(panel: Panel) -> str:
    """The SVG of a panel: logged values are faint, their smooth line has full colour; dots show single measurements."""

    def draw(axes: Axes) -> None:
        """Draws all series, each in its colour."""
        lines: list[Line2D] = []
        for one, colour in zip(panel.series, cycle(COLOURS)):
            if one.measured:
                lines += axes.plot(one.iterations, one.values, "o-", color=colour, markersize=4)
                continue
            axes.plot(one.iterations, one.values, color=colour, alpha=0.3, linewidth=0.8)
            lines += axes.plot(one.iterations, one.smooth, color=colour, linewidth=1.6)
        if panel.logarithmic:
            axes.set_yscale("log")
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if any(one.label for one in panel.series):
            _legend(axes, lines, [one.label for one in panel.series])

    return _svg(draw)


def precision_recall_figure(curves: Sequence[tuple[str, Curve]]) -> str:
    """The SVG of precision against recall; the first curve, that of all classes together, is the thick one."""

    def draw(axes: Axes) -> None:
        lines: list[Line2D] = []
        for (_, one), colour, width in zip(curves, cycle(COLOURS), _widths(len(curves)), strict=False):
            precision, recall = (np.concatenate([part[:1], part]) for part in (one.precision, one.recall))
            recall[:1] = 0.0  # so that the curve begins at the left edge
            lines += axes.plot(recall, precision, color=colour, linewidth=width)
        _unit_axes(axes, "recall", "precision")
        _legend(axes, lines, [name for name, _ in curves])

    return _svg(draw)


def f1_figure(curves: Sequence[tuple[str, Curve]]) -> str:
    """The SVG of F1 against the score threshold, with a dot at the best threshold of each curve."""

    def draw(axes: Axes) -> None:
        lines: list[Line2D] = []
        for (_, one), colour, width in zip(curves, cycle(COLOURS), _widths(len(curves)), strict=False):
            lines += axes.step(one.thresholds, one.f1, where="post", color=colour, linewidth=width)
            if one.best is not None:
                axes.plot(one.thresholds[one.best], one.f1[one.best], "o", color=colour, markersize=4)
        _unit_axes(axes, "threshold on the score", "F1")
        _legend(axes, lines, [name for name, _ in curves])

    return _svg(draw)


def short(text: str) -> str:
    """A label that is shortened if a diagram has no room for it."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _widths(count: int) -> list[float]:
    return [2.4] + [1.2] * (count - 1)


def _unit_axes(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=y)


def _legend(axes: Axes, lines: list[Line2D], labels: Sequence[str]) -> None:
    """Adds a legend. It does not use the lines' own labels, because matplotlib ignores those that begin with _."""
    legend = axes.legend(lines, [str(number) for number in range(len(lines))], fontsize=7.5, loc="best")
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(short(label))


def _svg(draw: Callable[[Axes], None]) -> str:
    """The drawing that `draw` makes on axes, as an SVG element."""
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # glyphs are only missing for matplotlib's own measuring
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.grid(alpha=0.2, color=_FRAME)
        content = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(content, format="svg", transparent=True, metadata=metadata)
    text = content.getvalue()
    for colour, name in ((_FRAME, "currentColor"), (COLOURS[0], "var(--first)")):
        text = text.replace(colour, name)
    return text[text.index("<svg") :]
