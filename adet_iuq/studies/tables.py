"""A study's results as tables of text, from which all forms are made."""

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable

from adet_iuq.studies.record import Record
from adet_iuq.studies.statistics import mean_ratio, paired_difference, summary
from adet_iuq.studies.study import Study

# A number for each arm and seed.
ByArm = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Table:
    """A title, the names of its columns, and rows of cells."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table as GitHub renders it, with the first column to the left and the others to the right."""
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return f"{self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def rich(self) -> RichTable:
        """The table for a terminal."""
        table = RichTable(title=self.title, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=index == 0)
        for row in self.rows:
            table.add_row(*row)
        return table


def chosen_metrics(patterns: Sequence[str], records: Sequence[Record]) -> list[str]:
    """The names that at least one record has and a pattern matches, in the order of the patterns."""
    known = sorted({name for record in records for name in record.metrics()})
    matches = (name for pattern in patterns for name in known if fnmatch.fnmatchcase(name, pattern))
    return list(dict.fromkeys(matches))


def by_arm(
    study: Study, records: Sequence[Record], value: Callable[[Record], float | None]
) -> dict[str, dict[int, float]]:
    """A number of every record of one data set, by arm and seed, both in the study's order; None is left out."""
    found = {(record.arm, record.seed): value(record) for record in records}
    return {
        arm: {seed: number for seed in study.seeds if (number := found.get((arm, seed))) is not None}
        for arm in study.arms
    }


def metric_by_arm(study: Study, records: Sequence[Record], metric: str) -> dict[str, dict[int, float]]:
    """A metric of every record of one data set, by arm and seed."""
    return by_arm(study, records, lambda record: record.metrics().get(metric))


def mean_table(study: Study, records: Sequence[Record], metrics: Sequence[str]) -> Table:
    """A row per arm: the number of seeds, the cost as a multiple of the base's, mean and deviation of every metric."""
    counts = by_arm(study, records, lambda record: 1.0)
    costs = by_arm(study, records, lambda record: record.cost)
    columns = [_mean_column(metric_by_arm(study, records, metric)) for metric in metrics]
    rows = [
        [arm, str(len(counts[arm])), _number(mean_ratio(costs[arm], costs[study.base]), 2), *(c[arm] for c in columns)]
        for arm in study.arms
    ]
    return Table("Mean ± standard deviation over seeds", ["arm", "n", "cost", *metrics], rows)


def difference_table(study: Study, records: Sequence[Record], metrics: Sequence[str], control: str) -> Table:
    """A row per arm except the control: the mean paired difference to it, with its interval, for every metric."""
    columns = [_difference_column(metric_by_arm(study, records, metric), control) for metric in metrics]
    rows = [[arm, *(column[arm] for column in columns)] for arm in study.arms if arm != control]
    title = f"Difference to {control}, seed by seed: mean [95 % interval], **bold** where it excludes zero"
    return Table(title, ["arm", *metrics], rows)


def _mean_column(values: ByArm) -> dict[str, str]:
    digits = _digits(number for arm in values.values() for number in arm.values())
    found = {arm: summary(numbers) for arm, numbers in values.items()}
    return {arm: f"{_number(one.mean, digits)} ± {_number(one.deviation, digits)}" for arm, one in found.items()}


def _difference_column(values: ByArm, control: str) -> dict[str, str]:
    digits = _digits(number for arm in values.values() for number in arm.values())
    cells = {}
    for arm, numbers in values.items():
        one = paired_difference(numbers, values[control])
        low, high = _number(one.low, digits, "+"), _number(one.high, digits, "+")
        text = f"{_number(one.mean, digits, '+')} [{low}, {high}]"
        cells[arm] = f"**{text}**" if one.is_clear else text
    return cells


def _digits(numbers: Iterable[float]) -> int:
    """The number of decimals with which the largest number has four digits."""
    largest = max((abs(number) for number in numbers), default=0.0)
    return min(6, max(0, 3 - math.floor(math.log10(largest)))) if largest > 0 else 2


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f}" if math.isfinite(value) else "-"
