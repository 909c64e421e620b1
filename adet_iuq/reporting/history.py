"""The numbers of a run over its iterations, from metrics.json."""

import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

METRICS_FILE = "metrics.json"
_SHARE = 0.05  # share of a series' points that its smooth line averages over
_AUXILIARY = re.compile(r"_\d+$")  # losses of earlier decoder layers: loss_mask_0 to loss_mask_8 beside loss_mask
_AP = re.compile(r"(?:(?P<name>.+)/)?(?P<task>bbox|segm)/AP")
_IUQ = {
    "iuq/fire_rate": "Firing rate on pixels of other images",
    "iuq/own_fire_rate": "Firing rate on the query's own image",
    "iuq/gradient_ratio": "Gradient ratio: inter-scene to mask loss",
}
_LOG_FROM = 100.0  # ratio of the values of a positive series from which its axis is logarithmic


@dataclass(frozen=True)
class Series:
    """One number over iterations, (T,) each.

    Attributes:
        label: the name of the number; empty if its panel names it.
        iterations: rising, counted from 1 as in the log.
        values: finite numbers.
        measured: whether each value is a measurement of its own, such as an evaluation's, and not part of a noisy series.
    """

    label: str
    iterations: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    measured: bool = False

    @property
    def smooth(self) -> npt.NDArray[np.float64]:
        """(T,) the running mean over a twentieth of the points, half of them on either side, fewer at the ends."""
        reach = int(len(self.values) * _SHARE / 2)
        ends = np.concatenate([[0.0], np.cumsum(self.values)])
        place = np.arange(len(self.values))
        first, last = np.maximum(place - reach, 0), np.minimum(place + reach + 1, len(self.values))
        return (ends[last] - ends[first]) / (last - first)


@dataclass(frozen=True)
class Panel:
    """A small diagram: a title and the series in it."""

    title: str
    series: list[Series]

    @property
    def logarithmic(self) -> bool:
        """Whether the values span so much that a linear axis would only show the largest ones."""
        values = np.concatenate([one.values for one in self.series])
        noisy = not any(one.measured for one in self.series)
        return bool(noisy and values.min() > 0 and values.max() / values.min() > _LOG_FROM)


def read_history(folder: Path) -> dict[str, dict[int, float]]:
    """{name: {iteration: value}} of a run's metrics.json; empty if there is none.

    Lines that are cut off and values that are not finite are ignored. If an iteration is there twice, as after a resume
    of a run that was killed, the later value counts.
    """
    path = folder / METRICS_FILE
    history: dict[str, dict[int, float]] = defaultdict(dict)
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            values: dict[str, Any] = json.loads(line)
            iteration = int(values.pop("iteration"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                history[name][iteration] = float(value)
    return dict(history)


def iterations_done(history: dict[str, dict[int, float]]) -> int:
    """The number of iterations that were trained; 0 if it is not known."""
    return max((max(history[name]) + 1 for name in ("total_loss", "lr") if name in history), default=0)


def panels(history: dict[str, dict[int, float]]) -> list[Panel]:
    """The diagrams of a report: AP of all test sets, the losses by name (the total first), the firing of queries, the
    learning rate. Auxiliary losses of decoder layers are left out, because they follow those of the last layer."""
    losses = [name for name in history if "loss" in name and "/" not in name and not _AUXILIARY.search(name)]
    losses.sort(key=lambda name: (name != "total_loss", name))
    result = [Panel("AP", _averages(history))]
    result += [Panel(name, [_series("", history[name])]) for name in losses]
    result += [Panel(title, [_series("", history[name])]) for name, title in _IUQ.items() if name in history]
    if "lr" in history:
        result.append(Panel("Learning rate", [_series("", history["lr"])]))
    return [panel for panel in result if any(len(one.values) for one in panel.series)]


def _averages(history: dict[str, dict[int, float]]) -> list[Series]:
    found = {name: match for name in history if (match := _AP.fullmatch(name))}
    last = iterations_done(history) - 1  # the last evaluation is logged one iteration later
    return [
        _series(
            " ".join(filter(None, [match["name"], match["task"]])),
            {min(when, last) if last >= 0 else when: value for when, value in history[name].items()},
            measured=True,
        )
        for name, match in found.items()
    ]


def _series(label: str, values: dict[int, float], *, measured: bool = False) -> Series:
    iterations = sorted(values)
    numbers = np.array([values[one] for one in iterations], dtype=np.float64)
    return Series(label, np.array(iterations, dtype=np.int64) + 1, numbers, measured)
