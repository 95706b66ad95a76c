"""Held-out figures against numbers worked out by hand."""

import math

import polars as pl
import pytest

from scoreonce.pipeline.evaluation.held_out import win_scores
from scoreonce.pipeline.evaluation.summary import evaluation_summary, paired_difference


def table(rows):
    """Rows of (source, chosen_len, rejected_len, policy chosen, policy rejected, ref chosen, ref rejected)."""
    names = [
        "source",
        "chosen_len",
        "rejected_len",
        "policy_chosen_logps",
        "policy_rejected_logps",
        "ref_chosen_logps",
        "ref_rejected_logps",
    ]
    kinds = [pl.String, pl.Int32, pl.Int32, *[pl.Float64] * 4]
    frame = pl.DataFrame(rows, schema=dict(zip(names, kinds, strict=True)), orient="row")
    ratios = frame.with_columns(
        pair_id=pl.int_range(pl.len()).cast(pl.String),
        chosen_logratios=pl.col("policy_chosen_logps") - pl.col("ref_chosen_logps"),
        rejected_logratios=pl.col("policy_rejected_logps") - pl.col("ref_rejected_logps"),
    )
    return ratios.with_columns(margin=pl.col("chosen_logratios") - pl.col("rejected_logratios"))


PAIRS = table(
    [
        # margin 2 - 1 = 1; per token 2/4 = 0.5 < 1/1; policy -8 < -3 (average -2 > -3); ref -10 < -4 (-2.5 > -4)
        ("a", 4, 1, -8.0, -3.0, -10.0, -4.0),
        # margin -1 - 1 = -2; per token -1/2 < 1/5; policy -6 > -9 (average -3 < -1.8); ref -5 > -10 (-2.5 < -2)
        ("a", 2, 5, -6.0, -9.0, -5.0, -10.0),
        # margin 0 - 0: a tie, of equal length; policy and ref -3 > -6
        ("b", 3, 3, -3.0, -6.0, -3.0, -6.0),
        # margin 4 - 1 = 3; per token 4/4 = 1 > 1/2; policy -4 > -7 (-1 > -3.5); ref -8 = -8 (-2 > -4)
        ("a", 4, 2, -4.0, -7.0, -8.0, -8.0),
    ]
)


def test_accuracy_counts_ties_half():
    """Scores 1, 0, 1/2, 1: (1 + 0 + 0.5 + 1) / 4 = 0.625."""
    assert win_scores(PAIRS)["accuracy"].to_list() == [1.0, 0.0, 0.5, 1.0]
    summary = evaluation_summary(PAIRS)
    assert summary["accuracy"] == 0.625
    assert summary["ties"] == 0.25
    assert summary["pairs"] == 4


def test_interval_is_wilsons():
    """Wilson's 95 % interval of 8 of 10, as in every textbook: 0.4902 to 0.9433."""
    rows = [("a", 2, 1, -1.0, -2.0, -2.0, -2.0)] * 8 + [("a", 2, 1, -2.0, -1.0, -2.0, -2.0)] * 2
    summary = evaluation_summary(table(rows))
    assert summary["accuracy"] == 0.8
    assert summary["accuracy_low"] == pytest.approx(0.49016, abs=5e-6)
    assert summary["accuracy_high"] == pytest.approx(0.94332, abs=5e-6)


def test_length_normalised_accuracy_divides_each_log_ratio_by_its_own_length():
    """Per token: 0.5 < 1, -0.5 < 0.2, a tie, 1 > 0.5: (0 + 0 + 0.5 + 1) / 4."""
    assert evaluation_summary(PAIRS)["length_normalised_accuracy"] == 0.375


def test_ranking_accuracies_of_policy_and_reference():
    """Policy sums 0, 1, 1, 1 and averages 1, 0, 1, 1; reference sums 0, 1, 1, tie and averages 1, 0, 1, 1."""
    summary = evaluation_summary(PAIRS)
    assert summary["policy_ranking_accuracy"] == 0.75
    assert summary["policy_average_ranking_accuracy"] == 0.75
    assert summary["reference_ranking_accuracy"] == 0.625
    assert summary["reference_average_ranking_accuracy"] == 0.75


def test_length_controlled_accuracy_weighs_longer_and_shorter_alike():
    """Chosen longer: scores 1, 1, half of the tie's: (1 + 1 + 0.25) / 2.5 = 0.9; shorter: (0 + 0.25) / 1.5 = 1/6."""
    summary = evaluation_summary(PAIRS)
    assert summary["length_controlled_accuracy"] == pytest.approx((0.9 + 1 / 6) / 2)
    assert summary["length_controlled_accuracy_low"] < summary["length_controlled_accuracy"]
    assert summary["length_controlled_accuracy_high"] > summary["length_controlled_accuracy"]


def test_length_controlled_interval_of_two_equal_strata():
    """Strata of 8 wins in 10 each: p = 0.8, and each end is 1/√2 as far away as a stratum's own Wilson end."""
    wins, losses = (-1.0, -2.0, -2.0, -2.0), (-2.0, -1.0, -2.0, -2.0)
    rows = [("a", *lens, *values) for lens in ((2, 1), (1, 2)) for values in [wins] * 8 + [losses] * 2]
    summary = evaluation_summary(table(rows))
    assert summary["length_controlled_accuracy"] == pytest.approx(0.8)
    assert summary["length_controlled_accuracy_low"] == pytest.approx(0.8 - (0.8 - 0.49016) / math.sqrt(2), abs=1e-5)
    assert summary["length_controlled_accuracy_high"] == pytest.approx(0.8 + (0.94332 - 0.8) / math.sqrt(2), abs=1e-5)


def test_a_policy_that_only_likes_long_answers_gets_one_half():
    """Nine pairs with the longer side chosen, all right; one with the shorter, wrong: accuracy 0.9, controlled 0.5."""
    rows = [("a", 5, 2, -1.0, -2.0, -2.0, -2.0)] * 9 + [("a", 2, 5, -2.0, -1.0, -2.0, -2.0)]
    summary = evaluation_summary(table(rows))
    assert summary["accuracy"] == 0.9
    assert summary["length_controlled_accuracy"] == 0.5
    assert summary["chosen_is_longer"] == 0.9


def test_length_controlled_accuracy_needs_both_kinds_of_pair():
    summary = evaluation_summary(table([("a", 5, 2, -1.0, -2.0, -2.0, -2.0)] * 3))
    assert summary["accuracy"] == 1.0
    assert summary["length_controlled_accuracy"] is None


def test_margins_and_log_ratios():
    """Margins 1, -2, 0, 3: mean 0.5, sd √(13/3); chosen (2 - 1 + 0 + 4)/4, rejected (1 + 1 + 0 + 1)/4.

    Drift: -(5 + 3) / (13 + 11) tokens.
    """
    summary = evaluation_summary(PAIRS)
    assert summary["margin"] == 0.5
    assert summary["margin_high"] == pytest.approx(0.5 + 1.959964 * math.sqrt(13 / 3) / 2)
    assert summary["margin_p50"] == 0.5
    assert summary["chosen_logratios"] == 1.25
    assert summary["rejected_logratios"] == 0.75
    assert summary["cross_entropy_increase"] == pytest.approx(-8 / 24)


def test_sources_come_by_size_with_the_same_figures():
    by_source = evaluation_summary(PAIRS)["by_source"]
    assert [(row["source"], row["pairs"]) for row in by_source] == [("a", 3), ("b", 1)]
    assert by_source[0]["accuracy"] == pytest.approx(2 / 3)
    assert by_source[1]["accuracy"] == 0.5
    assert by_source[1]["margin_high"] is None  # one pair has no spread


def test_the_reference_as_its_own_policy_ties_everywhere():
    same = table([("a", 4, 1, -8.0, -3.0, -8.0, -3.0), ("a", 1, 3, -8.0, -3.0, -8.0, -3.0)])
    summary = evaluation_summary(same)
    assert summary["accuracy"] == summary["length_normalised_accuracy"] == summary["length_controlled_accuracy"] == 0.5
    assert summary["margin"] == summary["cross_entropy_increase"] == 0
    assert summary["ties"] == 1


def test_completion_only_and_non_finite_pairs_are_counted_and_left_out():
    odd = table([("a", 4, 0, -8.0, None, -8.0, None), ("a", 4, 1, float("nan"), -3.0, -10.0, -4.0)])
    summary = evaluation_summary(pl.concat([PAIRS, odd]))
    assert (summary["pairs"], summary["unranked"], summary["not_finite"]) == (4, 1, 1)
    assert summary["accuracy"] == 0.625


def test_no_pairs_give_no_figures():
    summary = evaluation_summary(PAIRS.clear())
    assert summary["pairs"] == 0
    assert summary["accuracy"] is None
    assert summary["accuracy_low"] is None
    assert summary["by_source"] == []


def test_paired_difference_cancels_what_both_get_right():
    """Scores 1, 0, ½, 1 against 1, 1, ½, 1: differences 0, -1, 0, 0: mean -1/4, sd 1/2, half width 1.96 / 4."""
    better = PAIRS.with_columns(margin=pl.Series([5.0, 5.0, 0.0, 5.0]))
    found = paired_difference(PAIRS, better.sample(fraction=1, shuffle=True, seed=1))
    assert found["pairs"] == 4
    assert found["difference"] == -0.25
    assert found["low"] == pytest.approx(-0.25 - 1.959964 / 4)
    assert found["high"] == pytest.approx(-0.25 + 1.959964 / 4)


def test_paired_difference_without_shared_pairs_is_nothing():
    others = PAIRS.with_columns(pair_id=pl.lit("elsewhere-") + pl.col("pair_id"))
    assert paired_difference(PAIRS, others) == {"pairs": 0, "difference": None, "low": None, "high": None}
