"""Draws a study: metrics by arm, differences to the base arm, every seed as a dot; and gradients by iteration."""

import io
import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
_PANELS = 3  # in a row
RATIO, COSINE = "iuq/gradient_ratio", "iuq/gradient_cosine"


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
    with _figure(path, title, (9.0, 1.6 + 0.35 * len(values))) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_values(left, values, f"{metric}; bars: means")
        _draw_differences(right, values, study.base)


def write_panels(path: Path, study: Study, records: Sequence[Record], metrics: Sequence[str], title: str) -> None:
    """Writes an SVG file with a panel for each metric, by arm.

    Args:
        path: the path of the file.
        study: the study with its arms in their order.
        records: the records of one data set.
        metrics: the names of the metrics.
        title: the title of the figure.

    Raises:
        UserError: the file cannot be written.
    """
    rows = -(-len(metrics) // _PANELS)
    height = rows * (0.9 + 0.22 * len(study.arms))
    with _figure(path, title, (10.0, 0.5 + height)) as figure:
        panels = figure.subplots(rows, _PANELS, sharey=True, squeeze=False).flatten().tolist()
        for axes, metric in zip(panels, metrics, strict=False):
            label = "/".join(metric.split("/")[-2:])  # the data set's name would reach into the next panel
            _draw_values(axes, metric_by_arm(study, records, metric), label)
        for axes in panels[len(metrics) :]:
            axes.remove()


def write_curves(path: Path, study: Study, records: Sequence[Record], title: str) -> None:
    """Writes an SVG file with the gradients' ratio and cosine along the training: each arm's mean over its seeds.

    Args:
        path: the path of the file.
        study: the study with its arms in their order.
        records: the records of one data set.
        title: the title of the figure.

    Raises:
        UserError: the file cannot be written.
    """
    with _figure(path, f"{title}: inter-scene term and mask loss, gradients on the queries", (10.0, 3.6)) as figure:
        left, right = figure.subplots(1, 2)
        for axes, key in ((left, RATIO), (right, COSINE)):
            for arm in study.arms:
                curve = _mean_curve([record.curves.get(key, ()) for record in records if record.arm == arm])
                if curve:
                    axes.plot(list(curve), list(curve.values()), ".-", label=arm, linewidth=1)
            axes.set_xlabel("iteration")
            axes.set_ylabel(key)
            axes.grid(alpha=0.3)
        left.set_yscale("log")
        right.set_ylim(-1.05, 1.05)
        right.axhline(0.0, color="gray", linewidth=1)
        right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _mean_curve(curves: Iterable[Iterable[tuple[int, float]]]) -> dict[int, float]:
    """The mean of the seeds' values by iteration, from where the term starts: before, its gradient is zero in every seed."""
    values: dict[int, list[float]] = {}
    for iteration, value in itertools.chain.from_iterable(curves):
        values.setdefault(iteration, []).append(value)
    return {iteration: statistics.fmean(values[iteration]) for iteration in sorted(values) if any(values[iteration])}


@contextmanager
def _figure(path: Path, title: str, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of `size` in inches, which becomes an SVG file when the context ends."""
    with style.context(["default", _STYLE]):  # replaces the user's own style
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        figure.suptitle(title)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata=_METADATA)
    replace_file(path, lambda file: file.write(content.getvalue()))


def _draw_values(axes: Axes, values: Mapping[str, Mapping[int, float]], label: str) -> None:
    """Draws a dot per seed and a bar for the mean."""
    for row, numbers in enumerate(values.values()):
        axes.plot(list(numbers.values()), [row] * len(numbers), "o", color="tab:blue", alpha=0.5, markersize=4)
        axes.plot([summary(numbers).mean], [row], "|", color="black", markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)


def _draw_differences(axes: Axes, values: Mapping[str, Mapping[int, float]], base: str) -> None:
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
