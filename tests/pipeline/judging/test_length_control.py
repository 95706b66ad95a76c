"""The win rate at equal lengths, by hand."""

import math

import numpy as np
import pytest

from scoreonce.pipeline.judging.length_control import length_controlled


def test_where_length_has_no_effect_it_is_the_plain_win_rate():
    """Longer and shorter by 50, each 3 wins of 4: φ = 0, θ = log 3, sigmoid(θ) = 0.75."""
    preference, own, other = [1, 1, 1, 0] * 2, [150] * 4 + [50] * 4, [100] * 8
    found = length_controlled(preference, own, other, list("abcdefgh"))
    assert found.length == pytest.approx(0, abs=1e-6)
    assert found.model == pytest.approx(math.log(3), abs=1e-3)
    assert found.win_rate == pytest.approx(0.75, abs=1e-3)


def test_where_length_alone_decides_it_is_one_half():
    """Three times longer by 50, each 3 wins of 4, and once shorter by as much, with 1 of 4: 10 of 16 won.

    s: differences -50 (12 times) and 50 (4), so tanh(d/s) = ∓t, and θ ∓ φt = ±log 3 gives θ = 0.
    """
    preference = [1, 1, 1, 0] * 3 + [1, 0, 0, 0]
    found = length_controlled(preference, [150] * 12 + [50] * 4, [100] * 16, [str(each) for each in range(16)])
    spread = math.sqrt((12 * 25**2 + 4 * 75**2) / 15)
    assert np.mean(preference) == 0.625
    assert found.win_rate == pytest.approx(0.5, abs=1e-3)
    assert found.length == pytest.approx(-math.log(3) / math.tanh(50 / spread), rel=1e-2)


def test_difficulty_is_kept_and_length_is_not():
    """θ + ψγ with γ = ±1 and shares 0.9 and 0.3: ψ = (logit 0.9 - logit 0.3) / 2, and the mean stays 0.6."""
    preference, gamma = [0.9] * 10 + [0.3] * 10, [1.0] * 10 + [-1.0] * 10
    lengths = [100, 120] * 10
    found = length_controlled(preference, lengths, lengths[::-1], [str(each) for each in range(20)], gamma)
    assert found.difficulty == pytest.approx((math.log(9) - math.log(3 / 7)) / 2, abs=1e-3)
    assert found.win_rate == pytest.approx(0.6, abs=1e-3)


def test_equal_lengths_are_no_effect():
    found = length_controlled([1, 0, 0.5, 1], [10] * 4, [10] * 4, list("abcd"))
    assert found.win_rate == pytest.approx(0.625, abs=1e-3)


def test_the_same_difference_everywhere_tells_nothing():
    assert length_controlled([1, 0, 1], [20] * 3, [10] * 3, list("abc")) is None
    assert length_controlled([1, 0], [20, 10], [10, 20], ["a", "a"]) is None


def test_a_side_that_wins_everything_is_finite():
    found = length_controlled([1.0] * 30, list(range(30)), list(range(30, 0, -1)), [str(each) for each in range(30)])
    assert 0.9 < found.win_rate <= 1
    assert found.low <= found.win_rate <= found.high


def test_repeated_comparisons_of_a_prompt_make_it_no_surer():
    """Each comparison four times, under the same prompt: the clustered interval stays as it was."""
    random = np.random.default_rng(0)
    own, other = random.integers(50, 150, 200).tolist(), random.integers(50, 150, 200).tolist()
    preference, prompts = random.integers(0, 2, 200).tolist(), [str(each) for each in range(200)]
    once = length_controlled(preference, own, other, prompts)
    four = length_controlled(preference * 4, own * 4, other * 4, prompts * 4)
    apart = length_controlled(preference * 4, own * 4, other * 4, [str(each) for each in range(800)])
    assert four.high - four.low == pytest.approx(once.high - once.low, rel=1e-2)
    assert apart.high - apart.low == pytest.approx((once.high - once.low) / 2, rel=1e-2)


@pytest.mark.slow
def test_the_interval_holds_the_truth_nineteen_times_in_twenty():
    """θ = 0.4, φ = -1, 200 draws of 300 comparisons: 95 % of 200 is 190, its deviation 3.1."""
    random = np.random.default_rng(1)
    truth, held = 1 / (1 + math.exp(-0.4)), 0
    for _ in range(200):
        own, other = random.normal(110, 30, 300), random.normal(100, 30, 300)
        shorter = other - own
        chance = 1 / (1 + np.exp(-(0.4 - np.tanh(shorter / shorter.std(ddof=1)))))
        found = length_controlled((random.random(300) < chance).astype(float), own, other, list(map(str, range(300))))
        held += found.low <= truth <= found.high
    assert 180 <= held <= 199
