"""The simulations that thresholds rest on."""

import numpy as np
import pytest

from scoreonce.pipeline.verdict.findings import FLOOR_SHARE
from scoreonce.pipeline.verdict.measures import share_of
from scoreonce.pipeline.verdict.series import loss_rise
from scoreonce.pipeline.verdict.states import STILL


def test_a_move_below_the_threshold_does_not_show_in_6000_choices():
    """A pair whose two sides were equally likely is now chosen with probability 1 / (1 + e^-0.05) = 0.5125. Of 6,000
    choices that is seen, in Wilson's interval, about half of the time; ten times the move every time.
    """
    random = np.random.default_rng(0)

    def seen(margin):
        wins = random.binomial(6000, 1 / (1 + np.exp(-margin)), size=200)
        return np.mean([share_of(each / 6000, 6000).low > 0.5 for each in wins])

    assert 0.35 < seen(STILL) < 0.65
    assert seen(10 * STILL) == 1


def test_a_loss_that_does_not_rise_is_seldom_told_to():
    """Runs of eleven evaluations of 64 pairs: each pair's loss has its own level, and each evaluation moves it.

    No evaluation is better than another. Without Bonferroni the rise from the lowest would be told in far more.
    """
    random, runs, told, naive = np.random.default_rng(1), 300, 0, 0
    for _ in range(runs):
        losses = random.gamma(2.0, 0.35, 64) + random.normal(0, 0.1, (11, 64))
        rows = [{"step": 10 * i, "pair_losses": each.tolist()} for i, each in enumerate(losses)]
        told += loss_rise(rows, []).rise.low > 0
        lowest = min(range(10), key=lambda i: losses[i].mean())
        gap = losses[10] - losses[lowest]
        naive += gap.mean() > 1.96 * gap.std(ddof=1) / 8
    assert told / runs <= 0.05
    assert naive / runs > 0.1


def test_a_loss_that_rises_is_told_to():
    """By 0.15 from the sixth of eleven evaluations on, where a pair's change deviates by 0.14."""
    random, told = np.random.default_rng(2), 0
    for _ in range(50):
        losses = random.gamma(2.0, 0.35, 64) + random.normal(0, 0.1, (11, 64)) - 0.15 * (np.arange(11) < 6)[:, None]
        rows = [{"step": 10 * i, "pair_losses": each.tolist()} for i, each in enumerate(losses)]
        told += loss_rise(rows, []).rise.low > 0
    assert told >= 48


def test_one_step_in_twenty_is_at_the_floor_where_margins_deviate_by_8_nats():
    """beta = 0.1 (1 + 0.6 (mean of 64 margins - M0)) is at most 0.001 where that mean is 1.65 nats below M0; the mean
    deviates by 8 / sqrt(64) = 1 nat, and 1.65 deviations below are one in 20.
    """
    margins = np.random.default_rng(3).normal(0, 8, (20000, 64))
    floored = 0.1 * (1 + 0.6 * margins.mean(1)) <= 1e-3
    assert floored.mean() == pytest.approx(FLOOR_SHARE, abs=0.005)


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_a_policy_that_is_right_agrees_with_one_minus_epsilon(rate):
    """Labels of 20,000 pairs, each flipped with that probability; the policy ranks every pair truly."""
    flipped = np.random.default_rng(4).random(20000) < rate
    agreed = share_of(float((~flipped).mean()), 20000)
    assert agreed.low < 1 - rate < agreed.high
    better = 1 - rate + 0.02  # what the ceiling rules out
    assert agreed.high < better
