"""Best-of-n from scored samples: by hand, and against every subset; its KL against enumeration."""

import math
from itertools import combinations

import numpy as np
import pytest

from scoreonce.pipeline.samples.best_of_n import curve, expected_maximum, kl_bound, kl_of, weights, win_rate

REWARDS = [3.0, -1.0, 4.0, 1.0, 5.0, 1.0]


def test_weights_by_hand():
    """Of C(4, 2) = 6 pairs of 4 values the largest is the second in 1, the third in 2, the fourth in 3."""
    assert weights(4, 2).tolist() == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6])
    assert weights(3, 3).tolist() == [0, 0, 1]


@pytest.mark.parametrize("n", range(1, 7))
def test_the_expected_maximum_is_the_mean_over_all_subsets(n):
    maxima = [max(each) for each in combinations(REWARDS, n)]
    assert expected_maximum(REWARDS, n) == pytest.approx(sum(maxima) / len(maxima), abs=1e-12)


@pytest.mark.parametrize("n", range(1, 7))
def test_the_win_rate_is_that_over_all_subsets_and_others(n):
    others = [0.0, 1.0, 4.0]  # two of them tie
    points = [(max(each) > b) + 0.5 * (max(each) == b) for each in combinations(REWARDS, n) for b in others]
    assert win_rate(REWARDS, others, n) == pytest.approx(sum(points) / len(points), abs=1e-12)


@pytest.mark.parametrize("n", [0, 7])
def test_more_than_there_are_is_refused(n):
    with pytest.raises(ValueError, match="from 6 samples"):
        expected_maximum(REWARDS, n)


def test_the_bound_by_hand():
    assert kl_bound(1) == 0
    assert kl_bound(4) == pytest.approx(math.log(4) - 0.75)


def test_large_numbers_of_samples_stay_finite():
    """Of 0 … 999 the expected largest of n drawn without replacement is n (N + 1) / (n + 1) − 1."""
    assert expected_maximum(range(1000), 500) == pytest.approx(500 * 1001 / 501 - 1)


def test_a_curve_by_hand():
    """Best of 2: prompt a has 2, prompt b the mean of max(1, 3), max(1, 2), max(3, 2) = 8/3; c has one completion."""
    found = curve({"a": [0.0, 2.0], "b": [1.0, 3.0, 2.0], "c": [7.0]}, {"a": [1.0], "b": [2.5]})
    assert [point.n for point in found] == [1, 2, 3]
    assert found[0].reward.mean == pytest.approx((1 + 2 + 7) / 3)
    assert found[1].reward.mean == pytest.approx((2 + 8 / 3) / 2)
    # Standard error of the two: half their difference.
    assert found[1].reward.error == pytest.approx((8 / 3 - 2) / 2)
    assert found[2].reward == (3.0, None)
    assert found[1].win_rate.mean == pytest.approx((1 + 2 / 3) / 2)
    assert [point.kl_bound for point in found] == [kl_bound(n) for n in (1, 2, 3)]


def test_without_others_there_is_no_win_rate_and_of_nothing_no_curve():
    assert curve({"a": [1.0]})[0].win_rate is None
    assert curve({}) == []


def test_a_row_has_both_ends_of_the_95_percent_interval():
    """Means 1 and 3 of two prompts: mean 2, standard error 1, ends 2 -/+ 1.96."""
    (point,) = curve({"a": [1.0], "b": [3.0]})
    row = point.row()
    assert (row["n"], row["reward"], row["kl_bound"]) == (1, 2.0, 0.0)
    assert [row["low"], row["high"]] == pytest.approx([0.04, 3.96], abs=1e-3)


def enumerated_kl(probabilities, n):
    """KL of the best of n draws, completion k being better than all before: P(best = k) = F(k)^n - F(k - 1)^n."""
    cumulative = np.cumsum(probabilities)
    best = cumulative**n - (cumulative - probabilities) ** n
    return float(np.sum(best * np.log(best / probabilities)))


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_the_kl_estimate(n):
    """Near the truth for a uniform reference over 1,000 completions, at most the bound, and the bound at p -> 0."""
    probabilities = np.full(1000, 1e-3)
    truth = enumerated_kl(probabilities, n)
    assert kl_of(math.log(1e-3), n) == pytest.approx(truth, abs=0.01)
    assert truth <= kl_bound(n) + 1e-12
    for logps in (-40.0, -699.0, -701.0, -1e5):
        assert kl_of(logps, n) == pytest.approx(kl_bound(n), abs=1e-12)


def test_the_kl_estimate_of_likely_completions():
    """n = 2, p = 1/2: (1/4)(log 2 + log(1/2) - 1/2) + (3/4) log(3/2) = 0.17909882; a certain completion costs 0."""
    assert kl_of(math.log(0.5), 2) == pytest.approx(-1 / 8 + 0.75 * math.log(1.5), rel=1e-12)
    assert kl_of(0.0, 4) == 0
    assert kl_of(-1e-17, 4) == pytest.approx(0, abs=1e-12)
