"""Paired differences against numbers worked out by hand, and against scipy's own test."""

import math

import pytest
from scipy import stats

from adet_iuq.studies.statistics import mean_ratio, paired_difference, summary


def test_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard deviation 1, t(0.975, 2) = 4.30265: 2 -+ 4.30265 / sqrt(3).
    one = paired_difference({1: 11.0, 2: 22.0, 3: 33.0, 9: 5.0}, {3: 30.0, 1: 10.0, 2: 20.0, 8: 5.0})
    assert one.values == {1: 1.0, 2: 2.0, 3: 3.0}
    assert one.mean == 2.0
    assert one.low == pytest.approx(2 - 4.3026527 / math.sqrt(3)) and one.high == pytest.approx(
        2 + 4.3026527 / math.sqrt(3)
    )
    assert not one.is_clear


def test_against_scipy() -> None:
    arm, base = [55.6, 53.8, 54.1, 56.6, 52.0], [51.3, 51.9, 53.0, 54.9, 51.8]
    one = paired_difference(dict(enumerate(arm)), dict(enumerate(base)))
    interval = stats.ttest_rel(arm, base).confidence_interval(0.95)
    assert (one.low, one.high) == pytest.approx((interval.low, interval.high))
    assert one.is_clear == (stats.ttest_rel(arm, base).pvalue < 0.05)


def test_few_seeds() -> None:
    assert math.isnan(paired_difference({1: 2.0}, {1: 1.0}).low) and not paired_difference({1: 2.0}, {1: 1.0}).is_clear
    assert math.isnan(paired_difference({1: 2.0}, {2: 1.0}).mean)
    assert summary({1: 2.0, 5: 4.0}).deviation == pytest.approx(math.sqrt(2))
    assert math.isnan(summary({1: 2.0}).deviation) and math.isnan(summary({}).mean)


def test_costs_are_compared_seed_by_seed() -> None:
    assert mean_ratio({1: 3.0, 2: 4.0, 3: 100.0}, {1: 2.0, 2: 4.0}) == 1.25
