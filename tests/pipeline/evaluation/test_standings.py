"""Candidates ranked over the same pairs: intervals by hand, ties, and pairs that not all of them rank."""

import math

import polars as pl
import pytest

from scoreonce.pipeline.evaluation.standings import standings

NORMAL, STUDENT = 1.959963984540054, 4.302652729911275  # 97.5 % quantiles: normal, and Student's with 2 degrees


def evaluation(wins, ids=None):
    """A table of evaluated pairs that a policy gets right (1), wrong (0) or tied (0.5)."""
    margin = [{1: 2.0, 0: -1.0, 0.5: 0.0}[win] for win in wins]
    columns = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    return pl.DataFrame(
        {
            "pair_id": ids or [f"p{number}" for number in range(len(wins))],
            "margin": margin,
            "chosen_logratios": margin,
            "rejected_logratios": [0.0] * len(wins),
            "chosen_len": [2] * len(wins),
            "rejected_len": [3] * len(wins),
            **{name: [-1.0] * len(wins) for name in columns},
        }
    )


def test_two_candidates_of_two_seeds_by_hand():
    """Mean scores of the pairs (1, 1, 1, 1/2) and (1, 0, 0, 1/2), of the seeds (1, 3/4) and (1/2, 1/4).

    The gaps 0, 1, 1, 0 have variance 1/3; both pairs of seeds have 1/32, so there are two degrees of freedom.
    """
    found = standings(
        {
            "worse": [evaluation([1, 0, 0, 1]), evaluation([1, 0, 0, 0])],
            "better": [evaluation([1, 1, 1, 1]), evaluation([1, 1, 1, 0])],
        }
    )
    best, other = found.rows
    assert (best.name, best.seeds, best.behind, best.tied, found.pairs) == ("better", 2, None, True, 4)
    assert best.accuracy.mean == 0.875
    assert (other.name, other.accuracy.mean, other.behind.mean) == ("worse", 0.375, 0.5)
    half = math.sqrt(NORMAL**2 / 3 / 4 + STUDENT**2 * 2 / 64)
    assert (other.behind.low, other.behind.high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-9)
    assert other.tied
    assert math.sqrt(1 / 3 / 4 + 2 / 64) < 0.5
    assert (best.near, other.near) == (True, False)


def test_one_seed_has_the_pairs_alone_and_many_candidates_wider_intervals():
    """Of three candidates two are compared with the best, each with half the error: the quantile is 2.2414."""
    ten = evaluation([1] * 9 + [0])
    found = standings({"a": [ten], "b": [evaluation([1] * 2 + [0] * 8)], "c": [evaluation([1] * 8 + [0, 1])]})
    assert [row.name for row in found.rows] == ["a", "c", "b"] or [row.name for row in found.rows] == ["c", "a", "b"]
    last = found.rows[-1]
    gap = [0] * 2 + [1] * 7 + [0]
    mean = sum(gap) / 10
    half = 2.241402727604947 * math.sqrt(sum((x - mean) ** 2 for x in gap) / 9 / 10)
    assert last.behind.low == pytest.approx(mean - half, rel=1e-9)
    assert not last.tied


def test_pairs_that_are_all_right_are_not_certain():
    """Wilson's lower end of a share of 1 is n / (n + z²)."""
    (row,) = standings({"a": [evaluation([1] * 14)]}).rows
    assert (row.accuracy.mean, row.accuracy.high) == (1.0, 1.0)
    assert row.accuracy.low == pytest.approx(14 / (14 + NORMAL**2), rel=1e-9)


def test_equal_candidates_are_tied():
    found = standings({name: [evaluation([1, 0, 0.5])] for name in "ab"})
    assert [row.tied for row in found.rows] == [True, True]
    assert found.rows[1].behind.mean == 0


def test_only_pairs_that_all_rank_count():
    """The second table ranks two pairs of three, and in another order."""
    found = standings(
        {"a": [evaluation([1, 0, 1], ["x", "y", "z"])], "b": [evaluation([0, 1], ["z", "x"])]},
    )
    assert found.pairs == 2
    assert {row.name: row.accuracy.mean for row in found.rows} == {"a": 1.0, "b": 0.5}
    with pytest.raises(ValueError, match="no pair in common"):
        standings({"a": [evaluation([1], ["x"])], "b": [evaluation([1], ["y"])]})
    with pytest.raises(ValueError, match="no candidate"):
        standings({})
