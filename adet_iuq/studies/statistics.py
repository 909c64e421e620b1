"""Means, and differences between arms seed by seed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Summary:
    """A number for several seeds.

    Attributes:
        values: the values by seed.
        mean: their mean; not a number if there are none.
        deviation: the standard deviation of the sample (divided by n - 1); not a number for less than two.
    """

    values: dict[int, float]
    mean: float
    deviation: float


@dataclass(frozen=True)
class Difference:
    """The difference of an arm and the base, seed by seed.

    Attributes:
        values: the differences by seed, for seeds that both have.
        mean: their mean; not a number if there are none.
        low: the lower end of Student's t interval of the mean at `LEVEL`; not a number for less than two seeds.
        high: its upper end.
    """

    values: dict[int, float]
    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def summary(values: Mapping[int, float]) -> Summary:
    """Mean and standard deviation of a number by seed."""
    numbers = np.array(list(values.values()), dtype=np.float64)
    mean = float(numbers.mean()) if len(numbers) else math.nan
    return Summary(dict(values), mean, float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan)


def paired_difference(arm: Mapping[int, float], base: Mapping[int, float]) -> Difference:
    """The difference of two arms over the seeds that both have, by seed."""
    differences = summary({seed: arm[seed] - base[seed] for seed in arm if seed in base})
    count = len(differences.values)
    if count < 2:
        return Difference(differences.values, differences.mean, math.nan, math.nan)
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * differences.deviation / math.sqrt(count)
    return Difference(differences.values, differences.mean, differences.mean - half, differences.mean + half)


def mean_ratio(arm: Mapping[int, float], base: Mapping[int, float]) -> float:
    """The mean quotient of two arms over the seeds that both have; not a number if there are none."""
    return summary({seed: arm[seed] / base[seed] for seed in arm if seed in base}).mean
