"""Checks and measures of scored pairs."""

import polars as pl
import pytest

from scoreonce.pipeline.audit.checks.check import judged
from scoreonce.pipeline.audit.checks.distributions import histograms
from scoreonce.pipeline.audit.checks.reference_checks import (
    REFERENCE_DISTRIBUTIONS,
    by_length_gap,
    ranges,
    reference_checks,
    reference_measures,
    with_rates,
)
from scoreonce.pipeline.audit.summary.sources import measured

FLOAT = ("ref_chosen_logps", "ref_rejected_logps", "chosen_score", "rejected_score")
USUAL = [{"ref_chosen_logps": -10.0 - i % 5, "ref_rejected_logps": -12.0 - i % 3} for i in range(30)]


def scored(*rows: dict) -> pl.LazyFrame:
    base = {
        "chosen_len": 5,
        "rejected_len": 4,
        "chosen_score": None,
        "rejected_score": None,
        "ref_chosen_entropy": 10.0,
        "ref_rejected_entropy": 4.0,
        "ref_chosen_top1_hits": 1,
        "ref_rejected_top1_hits": 2,
    }
    table = pl.DataFrame([{**base, "place": i, **row} for i, row in enumerate(rows)], infer_schema_length=None)
    table = table.with_columns(pl.col(name).cast(pl.Float64) for name in FLOAT)
    return with_rates(table.with_columns(ref_margin=pl.col("ref_chosen_logps") - pl.col("ref_rejected_logps")).lazy())


def found(*rows: dict) -> dict[str, list[int]]:
    pairs = scored(*rows)
    checks = reference_checks(ranges(pairs))
    table = judged(pairs, checks).collect()
    return {check.name: table.filter(check.name)["place"].to_list() for check in checks if table[check.name].any()}


def test_nothing_in_usual_pairs():
    assert found(*USUAL) == {}


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"ref_chosen_logps": None, "ref_rejected_logps": None}, {"reference_missing"}),
        ({"ref_chosen_logps": float("nan"), "ref_rejected_logps": -12.0}, {"reference_logps_impossible"}),
        ({"ref_chosen_logps": 0.5, "ref_rejected_logps": 0.0}, {"reference_logps_impossible"}),
        ({"ref_chosen_logps": float("-inf"), "ref_rejected_logps": -12.0}, {"reference_logps_impossible"}),
        ({"ref_chosen_logps": -90.0, "ref_rejected_logps": -92.0, "chosen_len": 40, "rejected_len": 40}, set()),
        ({"ref_chosen_logps": -60.0, "ref_rejected_logps": -58.0, "rejected_len": 20}, {"chosen_perplexity_outlier"}),
        ({"ref_chosen_logps": -50.0, "ref_rejected_logps": -52.0, "chosen_len": 20}, {"rejected_perplexity_outlier"}),
        ({"ref_chosen_logps": -60.0, "ref_rejected_logps": -12.0, "chosen_len": 25}, {"reference_margin_outlier"}),
        ({"ref_chosen_logps": -10.0, "ref_rejected_logps": None, "rejected_len": 0}, set()),
    ],
)
def test_a_planted_row_is_found_by_its_check_alone(row, names):
    assert set(found(*USUAL, row)) == names


def test_scores_far_apart_against_the_reference():
    """Of 20 pairs one has the largest gap and the lowest margin; another has the gap, a third the margin alone."""
    rows = [{**row, "chosen_score": 2.0, "rejected_score": 1.0} for row in USUAL[:20]]
    rows[3] |= {"chosen_score": 9.0, "ref_chosen_logps": -15.0}
    rows[4] |= {"chosen_score": 9.0}
    rows[5] |= {"ref_chosen_logps": -15.0}
    assert found(*rows)["reference_against_large_gap"] == [3]


def test_accuracy_by_sum_and_by_mean():
    """Chosen has 5 tokens, rejected 4. (-10, -9): sum says rejected, −2 > −2.25 says chosen. (-5, -9): both chosen."""
    logps = ((-10, -9), (-5, -9), (None, None))
    rows = [{"ref_chosen_logps": chosen, "ref_rejected_logps": rejected} for chosen, rejected in logps]
    values = measured(scored(*rows), reference_measures())
    assert (values["reference_accuracy_sum"], values["reference_accuracy_mean"]) == (0.5, 1.0)
    assert values["reference_margin_mean"] == pytest.approx(1.5)
    assert values["reference_chosen_nll"] == pytest.approx((2 + 1) / 2)
    assert values["reference_chosen_entropy"] == pytest.approx(2.0)
    assert values["reference_chosen_top1"] == pytest.approx(1 / 5)


def test_accuracy_by_how_much_longer_the_chosen_side_is():
    rows = [
        {"ref_chosen_logps": -10, "ref_rejected_logps": -9, "chosen_len": 30, "rejected_len": 5},
        {"ref_chosen_logps": -8, "ref_rejected_logps": -9, "chosen_len": 5, "rejected_len": 5},
    ]
    found = by_length_gap(scored(*rows))
    assert [(row["low"], row["high"], row["pairs"]) for row in found] == [(0, 1, 1), (10, 50, 1)]
    assert [row["reference_accuracy_sum"] for row in found] == [1.0, 0.0]


def test_nothing_scored():
    pairs = scored({"ref_chosen_logps": None, "ref_rejected_logps": None})
    assert set(found({"ref_chosen_logps": None, "ref_rejected_logps": None})) == {"reference_missing"}
    assert by_length_gap(pairs) == []
    assert "reference_accuracy_sum" not in measured(pairs, reference_measures())


def drawn(**columns: list[float | None]) -> dict[str, dict[int, int]]:
    """Of each distribution that is drawn, the bins with anything in them."""
    pairs = pl.LazyFrame(columns, schema=dict.fromkeys(columns, pl.Float64))
    return {
        part["name"]: {number: found["count"] for number, found in enumerate(part["bins"]) if found["count"]}
        for part in histograms(pairs, REFERENCE_DISTRIBUTIONS)
    }


def test_embedding_similarity_and_ches_are_drawn():
    """30 bins. From 0 to 1 each is 1/30 wide: 0.25 is in bin ⌊7.5⌋, 0.55 in ⌊16.5⌋. From −60 to 0 each is 2 wide: −45
    is 15 from the start, in ⌊7.5⌋; −21 is 39 from it, in ⌊19.5⌋. What is not finite is in none.
    """
    assert drawn(
        ref_embedding_similarity=[0.0, 0.25, 0.55, 0.55, 1.0, None],
        ref_ln_ches=[-60.0, -45.0, -21.0, 0.0, float("nan"), float("-inf")],
    ) == {"ref_embedding_similarity": {0: 1, 7: 1, 16: 2, 29: 1}, "ref_ln_ches": {0: 1, 7: 1, 19: 1, 29: 1}}


def test_without_embeddings_neither_is_drawn():
    assert drawn(ref_embedding_similarity=[None, None], ref_ln_ches=[None, None]) == {}
