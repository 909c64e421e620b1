"""The report's tables, as rows of text: results, AP by class, the confusion matrix."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from adet_iuq.reporting.confusion import BACKGROUND, OTHERS, Confusion
from adet_iuq.reporting.figures import short

_AP_OF = "AP-"  # the prefix of a class's AP in the results

Values = Mapping[str, float | None]


@dataclass(frozen=True)
class Table:
    """A header and rows; the first cell of a row names it."""

    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Cell:
    """A cell of a confusion matrix.

    Attributes:
        count: the number of cases.
        share: its share of the row, from 0 to 1.
        right: whether the cell lies on the diagonal.
    """

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class ConfusionTable:
    """Column names, and rows with the name of the object's class."""

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]


def result_tables(tasks: Mapping[str, Values]) -> tuple[list[Table], Table | None]:
    """The metrics of one data set, with one table for tasks that have the same metrics; and AP by class, if it is known."""
    tables: dict[tuple[str, ...], Table] = {}
    classes: dict[str, dict[str, float | None]] = {}
    for task, values in tasks.items():
        metrics = tuple(name for name in values if not name.startswith(_AP_OF))
        if metrics:
            table = tables.setdefault(metrics, Table(["", *metrics], []))
            table.rows.append([task, *(number(values[name]) for name in metrics)])
        for name, value in values.items():
            if name.startswith(_AP_OF):
                classes.setdefault(name.removeprefix(_AP_OF), {})[task] = value
    if not classes:
        return list(tables.values()), None
    measured = [task for task in tasks if any(task in values for values in classes.values())]
    rows = [[name, *(number(values.get(task)) for task in measured)] for name, values in sorted(classes.items())]
    return list(tables.values()), Table(["class", *(f"{task} AP" for task in measured)], rows)


def confusion_table(confusion: Confusion, classes: list[int], names: list[str]) -> ConfusionTable:
    """The matrix of some classes; all others share a row and a column.

    Args:
        confusion: the confusion of a data set.
        classes: the classes with a row and a column of their own, in this order.
        names: the names of all classes.
    """
    keys, counts = confusion.table(classes)
    special = {BACKGROUND: "background", OTHERS: "other classes"}
    labels = [special.get(key) or short(names[key]) for key in keys]
    rows = []
    for key, label, row in zip(keys, labels, counts, strict=True):
        total = max(sum(row), 1)
        right = [key == other and key != BACKGROUND for other in keys]
        cells = [Cell(count, count / total, one) for count, one in zip(row, right, strict=True)]
        rows.append((label, cells))
    return ConfusionTable(labels, rows)


def number(value: float | None) -> str:
    """A number with two decimals, or fewer if they would not show; a dash for a value that is not a number."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"
