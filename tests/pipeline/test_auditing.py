"""Each check finds the rows that are planted for it, and no others."""

from typing import Any

import polars as pl
import pytest

from scoreonce.pipeline.auditing import (
    PAIR_CHECKS,
    REFERENCE_CHECKS,
    both_splits,
    findings,
    pair_measures,
    reference_measures,
)
from scoreonce.schemas.tables import Pair


def pair(row: int, **change: Any) -> dict[str, Any]:
    chosen, rejected = change.get("chosen_id", f"c{row}"), change.get("rejected_id", f"r{row}")
    return {
        "pair_id": f"{chosen}>{rejected}", "chosen_id": chosen, "rejected_id": rejected,
        "prompt_id": f"p{row}", "row": row,
        "source": None, "prompt": "hi", "chosen": "yes", "rejected": "no", "chosen_score": None, "rejected_score": None,
        "prompt_len": 3, "chosen_len": 5, "rejected_len": 4, "prompt_truncated": False, "chosen_truncated": False,
        "rejected_truncated": False, "boundary_merged": False, **change}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> pl.LazyFrame:
    schema = {**Pair.create_empty().schema}
    return Pair.validate(pl.DataFrame(rows, schema=schema), cast=False).lazy()


def found(train: list[dict[str, Any]], test: list[dict[str, Any]] = []) -> dict[str, list[int]]:  # noqa: B006
    """Rows by check, of the checks that found some."""
    result = findings(both_splits(table(train), table(test)), PAIR_CHECKS)
    assert all(len(finding.examples) == min(finding.rows, 3) for finding in result)
    return {finding.name: [example["row"] for example in finding.examples] for finding in result if finding.rows}


GOOD = [pair(row) for row in range(4)]


def test_nothing_in_good_pairs_with_or_without_rejected_sides():
    assert found(GOOD) == {}
    assert found([pair(row, rejected_id=None, rejected=None, rejected_len=0) for row in range(4)]) == {}


@pytest.mark.parametrize(("change", "name"), [
    ({"chosen_id": "c1", "rejected_id": "r1"}, "duplicate_pair"),
    ({"chosen_score": 2.0, "rejected_score": 2.0}, "scores_are_tied"),
    ({"chosen_score": 1.0, "rejected_score": 2.0}, "scores_prefer_rejected"),
    ({"rejected": "no<|im_end|>"}, "special_token_in_completion"),
    ({"prompt_truncated": True}, "prompt_truncated"),
    ({"boundary_merged": True}, "boundary_merged"),
])  # fmt: skip
def test_a_planted_row_is_found_by_its_check_alone(change, name):
    assert found([*GOOD, pair(9, **change)]) == {name: [9]}


def test_truncation_of_one_side_and_of_both():
    rows = [
        pair(7, chosen_truncated=True),
        pair(8, rejected_truncated=True),
        pair(9, chosen_truncated=True, rejected_truncated=True),
    ]
    assert found(GOOD + rows) == {
        "one_side_truncated": [7, 8],
        "chosen_truncated": [7, 9],
        "rejected_truncated": [8, 9],
    }


def test_contradiction_concerns_both_rows():
    assert found([*GOOD, pair(9, chosen_id="r1", rejected_id="c1")]) == {"contradictory_pair": [1, 9]}


def test_a_prompt_in_both_splits():
    assert found(GOOD, [pair(9, prompt_id="p2"), pair(10)]) == {"prompt_in_both_splits": [2, 9]}


def test_more_than_eight_pairs_of_a_prompt():
    assert found([pair(row, prompt_id="same") for row in range(8)]) == {}
    assert found([pair(row, prompt_id="same") for row in range(9)]) == {"crowded_prompt": [0, 1, 2]}


def test_shares_are_of_all_rows():
    result = {
        finding.name: finding
        for finding in findings(both_splits(table([*GOOD, pair(9, prompt_truncated=True)]), table([])), PAIR_CHECKS)
    }
    assert (result["prompt_truncated"].rows, result["prompt_truncated"].share) == (1, 0.2)


def test_measures_of_lengths_and_prompts():
    """Chosen longer in 2 of the 3 pairs of unequal length; 4 pairs of 3 prompts."""
    rows = [pair(0), pair(1), pair(2, chosen_len=1, prompt_id="p1"), pair(3, chosen_len=4)]
    measures = {measure.name: measure.value for measure in pair_measures(table(rows))}
    assert measures == {"longer_side_wins": 2 / 3, "pairs_per_prompt": 4 / 3, "most_pairs_of_a_prompt": 2.0}


def test_measures_of_completion_only_data_are_absent():
    rows = [pair(row, rejected_id=None, rejected=None, rejected_len=0) for row in range(2)]
    assert {measure.name: measure.value for measure in pair_measures(table(rows))}["longer_side_wins"] is None


def scored(*logps: tuple[float | None, float | None]) -> pl.LazyFrame:
    rows = pl.DataFrame([pair(row, split="train") for row in range(len(logps))], infer_schema_length=None)
    columns = pl.DataFrame(
        list(logps), schema={"ref_chosen_logps": pl.Float64, "ref_rejected_logps": pl.Float64}, orient="row"
    )
    margin = pl.col("ref_chosen_logps") - pl.col("ref_rejected_logps")
    return rows.hstack(columns).with_columns(ref_margin=margin).lazy()


def test_reference_checks():
    """Margins 1 in most rows, so the middle half has no width but for the rows with margins 0 and 2."""
    usual = [(-3.0, -4.0), (-3.0, -3.0), (-3.0, -5.0), (-4.0, -5.0)] * 3
    planted = [(None, None), (-1.0, -90.0), (1.0, 0.0), (float("nan"), -1.0)]
    result = {finding.name: [example["row"] for example in finding.examples]
              for finding in findings(scored(*usual, *planted), REFERENCE_CHECKS)}  # fmt: skip
    assert result["reference_missing"] == [12]
    assert result["reference_margin_outlier"][:1] == [13]
    assert result["reference_logps_impossible"] == [14, 15]


def test_reference_accuracy_by_sum_and_by_mean():
    """Chosen has 5 tokens, rejected 4. (-10, -9): sum says rejected, -2 > -2.25 says chosen. (-5, -9): both chosen."""
    measures = {
        measure.name: measure.value for measure in reference_measures(scored((-10.0, -9.0), (-5.0, -9.0), (None, None)))
    }
    assert (measures["reference_accuracy_sum"], measures["reference_accuracy_mean"]) == (0.5, 1.0)
    assert (measures["reference_margin_q01"], measures["reference_margin_q99"]) == (-1.0, 4.0)
