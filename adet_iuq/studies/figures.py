"""Draws a study: a metric by arm, and its differences to the base arm, with every seed as a dot."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adet_iuq.files import replace_file
from adet_iuq.studies.record import Record
from adet_iuq.studies.statistics import paired_difference, summary
from adet_iuq.studies.study import Study
from adet_iuq.studies.tables import metric_by_arm

# Text is drawn as shapes, ids have a fixed salt, and there is no date or version: equal numbers give equal bytes.
_STYLE = {"svg.hashsalt": "adet_iuq", "svg.fonttype": "path", "font.size": 9.0}
_METADATA = {"Date": None, "Creator": None}


def write_figure(path: Path, study: Study, records: Sequence[Record], metric: str, title: str) -> None:
    """Writes an SVG file: on the left the metric by arm, on the right the paired differences to the base arm.

    Args:
        path: the path of the file.
        study: the study with its arms in their order.
        records: the records of one data set.
        metric: the name of the metric.
        title: the title of the figure.

    Raises:
        UserError: the file cannot be written.
    """
    values = metric_by_arm(study, records, metric)
    with style.context(["default", _STYLE]):  # replaces the user's own style
        figure = Figure(figsize=(9.0, 1.6 + 0.35 * len(values)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_values(left, values, metric)
        _draw_differences(right, values, study.base, metric)
        figure.suptitle(title)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata=_METADATA)
    replace_file(path, lambda file: file.write(content.getvalue()))


def _draw_values(axes: Axes, values: Mapping[str, Mapping[int, float]], metric: str) -> None:
    """Draws a dot per seed and a bar for the mean."""
    for row, numbers in enumerate(values.values()):
        axes.plot(list(numbers.values()), [row] * len(numbers), "o", color="tab:blue", alpha=0.5, markersize=4)
        axes.plot([summary(numbers).mean], [row], "|", color="black", markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric}; bars: means")
    axes.grid(axis="x", alpha=0.3)


def _draw_differences(axes: Axes, values: Mapping[str, Mapping[int, float]], base: str, metric: str) -> None:
    """Draws a dot per seed, and the mean with its interval."""
    axes.axvline(0.0, color="gray", linewidth=1)
    for row, (arm, numbers) in enumerate(values.items()):
        if arm == base:
            continue
        one = paired_difference(numbers, values[base])
        axes.plot(list(one.values.values()), [row] * len(one.values), "o", color="tab:blue", alpha=0.5, markersize=4)
        axes.plot([one.low, one.high], [row, row], color="black", linewidth=1.5)
        axes.plot([one.mean], [row], "D", color="black", markersize=5)
    axes.set_xlabel(f"difference to {base}, same seeds; lines: 95 % interval")
    axes.grid(axis="x", alpha=0.3)
