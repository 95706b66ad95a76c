"""Intervals against a textbook, scipy, and numbers worked out by hand."""

import polars as pl
import pytest
from scipy import stats

from scoreonce.pipeline.evaluation.intervals import Z95, mean_half_width, mean_interval, wilson


def wilson_of(wins, count):
    values = pl.DataFrame({"win": [1.0] * wins + [0.0] * (count - wins)}, schema={"win": pl.Float64})
    low, high = wilson(pl.col("win").mean(), pl.len())
    return values.select(low=low, high=high).row(0)


def test_z_is_the_normal_quantile():
    assert pytest.approx(stats.norm.ppf(0.975), abs=1e-15) == Z95


@pytest.mark.parametrize(("wins", "count"), [(8, 10), (1, 3), (999, 1000), (0, 7), (7, 7)])
def test_wilson_is_scipys(wins, count):
    expected = stats.binomtest(wins, count).proportion_ci(0.95, method="wilson")
    assert wilson_of(wins, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("count", range(1, 60))
def test_wilson_ends_at_0_and_1_without_rounding(count):
    assert wilson_of(0, count)[0] == 0
    assert wilson_of(count, count)[1] == 1


def test_wilson_of_no_pairs_is_null():
    assert wilson_of(0, 0) == (None, None)


def test_mean_interval_by_hand():
    """Mean 3, variance ((-2)² + 0 + 2²) / 2 = 4, standard error 2 / √3, half width 1.95996 · 1.1547 = 2.26317."""
    values = [1.0, 3.0, 5.0]
    mean, low, high = mean_interval(values)
    assert mean == 3
    assert (low, high) == pytest.approx((3 - 2.26317, 3 + 2.26317), abs=1e-5)
    assert pl.DataFrame({"x": values}).select(mean_half_width(pl.col("x"))).item() == pytest.approx(2.26317, abs=1e-5)


def test_one_value_has_no_spread():
    assert mean_interval([2.5]) == (2.5, 2.5, 2.5)
    assert pl.DataFrame({"x": [2.5]}).select(mean_half_width(pl.col("x"))).item() is None
