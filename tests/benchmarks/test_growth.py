"""The fitted exponent."""

import growth
import pytest


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_exponent_of_a_power_law(power):
    sizes = [10, 100, 1_000]
    assert growth.exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power, abs=1e-9)


def test_only_the_last_rows_where_small_ones_show_a_fixed_cost():
    """5 + n: from 10 to 100 slower than linear, from 10^5 to 10^6 linear."""
    rows = [{"pairs": size, "s": 5 + size} for size in (10, 100, 100_000, 1_000_000)]
    assert growth._exponents(rows, "pairs", ["s"], last=2)["s"] == pytest.approx(1.0, abs=1e-4)
    assert growth._exponents(rows[:2], "pairs", ["s"])["s"] < 0.9


def test_rate_in_what_score_says():
    assert growth._tokens_per_second("scored  4 completions in 1 s (37 pairs/s, 10,005 tokens/s), 0 reused") == 10_005
