"""Every check of prepared pairs: a row planted for it is found by it alone. Texts and tokens have their own tests."""

from typing import Any

import polars as pl
import pytest

from scoreonce.pipeline.audit.checks.check import judged
from scoreonce.pipeline.audit.checks.judgements import VOTE_CHECKS
from scoreonce.pipeline.audit.checks.pair_checks import pair_checks
from scoreonce.pipeline.audit.checks.schema_rules import broken_rules, rule_checks, with_rules
from scoreonce.pipeline.audit.measures.relations import near_relations, relations, with_ids
from scoreonce.pipeline.audit.summary.findings import findings, worst
from scoreonce.schemas.tables import Pair

CHECKS = (*pair_checks(crowded=8, repetition=0.5, similarity=0.8), *VOTE_CHECKS)


def pair(row: int, **change: Any) -> dict[str, Any]:
    chosen, rejected = change.get("chosen_id", f"c{row}"), change.get("rejected_id", f"r{row}")
    lengths = {
        f"{side}_{name}": value
        for side, value in (("prompt", 3), ("chosen", 5), ("rejected", 4))
        for name in ("len", "tokens")
    }
    return {
        "split": "train",
        "row": row,
        "pair_id": f"{chosen}>{rejected}",
        "chosen_id": chosen,
        "rejected_id": rejected,
        "prompt_id": f"p{row}",
        "prompt_key": 3 * row,
        "chosen_key": 3 * row + 1,
        "rejected_key": 3 * row + 2,
        "source": None,
        "chosen_score": 2.0,
        "rejected_score": 1.0,
        **lengths,
        "prompt_truncated": False,
        "chosen_truncated": False,
        "rejected_truncated": False,
        "boundary_merged": False,
        "double_bos": False,
        "chosen_ends_in_eos": True,
        "rejected_ends_in_eos": True,
        "special_id_in_completion": False,
        "special_id_in_prompt": False,
        "control_token_in_completion": False,
        "control_token_in_prompt": False,
        "control_character": False,
        "similarity": 0.1,
        "chosen_repetition": 0.0,
        "rejected_repetition": 0.0,
        "prompt_language": "English",
        "chosen_language": "English",
        "rejected_language": "English",
        "chosen_bytes": 200,
        "rejected_bytes": 200,
        "chosen_refuses": False,
        "rejected_refuses": False,
        "chosen_names_itself": False,
        "prompt_script": "Latin",
        "chosen_script": "Latin",
        "rejected_script": "Latin",
        "prompt_contamination": 0.0,
        "completion_contamination": 0.0,
        "contamination_file": None,
        "votes_chosen": 3,
        "votes_rejected": 0,
        **change,
    }


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    nobody = pl.DataFrame(schema={"key": pl.Int64, "near_prompt_group": pl.Int64, "near_prompt_other": pl.Int64})
    nothing = nobody.rename(lambda name: name.replace("prompt", "completion"))
    pairs = pl.DataFrame(rows, infer_schema_length=None).cast({"rejected_key": pl.Int64})
    return related(pairs, nobody, nothing)


def related(pairs: pl.DataFrame, prompts: pl.DataFrame, completions: pl.DataFrame) -> pl.DataFrame:
    narrow = relations(pairs.lazy()).hstack(near_relations(pairs.lazy(), prompts, completions))
    return pairs.hstack(with_ids(narrow, pairs["pair_id"]))


def found(*rows: dict[str, Any]) -> dict[str, list[int]]:
    pairs = judged(table(*rows).lazy(), CHECKS)
    records = [record for record in findings(pairs, CHECKS) if record["rows"]]
    return {record["name"]: [example["row"] for example in record["examples"]] for record in records}


GOOD = [pair(row) for row in range(10)]
LONG = {"chosen_tokens": 40, "chosen_len": 40, "rejected_tokens": 40, "rejected_len": 40}
CUT = {"chosen_truncated": True, "chosen_ends_in_eos": False}


def test_nothing_in_good_pairs_with_or_without_rejected_sides():
    assert found(*GOOD) == {}
    alone = {
        "rejected_id": None,
        "rejected_key": None,
        "rejected_len": 0,
        "rejected_tokens": 0,
        "similarity": None,
        "rejected_script": None,
        "rejected_language": None,
        "rejected_score": None,
        "rejected_refuses": None,
    }
    assert found(*(pair(row, **alone) for row in range(4))) == {}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (
            {"chosen_id": "c1", "rejected_id": "r1", "chosen_key": 4, "rejected_key": 5, "prompt_key": 3},
            {"duplicate_pair"},
        ),
        ({"chosen_key": 4, "rejected_key": 5, "prompt_key": 3}, {"duplicate_after_normalisation"}),
        ({"chosen_key": 5, "rejected_key": 4, "prompt_key": 3}, {"contradictory_after_normalisation"}),
        ({"split": "test", "prompt_key": 3}, {"prompt_in_both_splits_after_normalisation"}),
        ({"split": "test", "prompt_key": 3, "prompt_id": "p1"}, {"prompt_in_both_splits"}),
        ({"chosen_score": 1.0}, {"scores_are_tied"}),
        ({"chosen_score": 0.5}, {"scores_prefer_rejected"}),
        ({"chosen_score": None}, set()),
        ({"double_bos": True}, {"double_bos"}),
        ({"chosen_ends_in_eos": False}, {"missing_eos"}),
        ({"rejected_ends_in_eos": False}, {"missing_eos"}),
        ({"chosen_tokens": 6}, {"tokens_disagree"}),
        (CUT, {"one_side_truncated", "chosen_truncated"}),
        ({**CUT, "rejected_truncated": True}, {"chosen_truncated", "rejected_truncated"}),
        ({**CUT, "rejected_len": 0, "rejected_tokens": 0}, {"chosen_truncated"}),
        ({"prompt_truncated": True}, {"prompt_truncated"}),
        ({"boundary_merged": True}, {"boundary_merged"}),
        ({"control_token_in_completion": True}, {"special_token_in_completion"}),
        ({"special_id_in_completion": True}, {"special_token_in_completion"}),
        ({"control_token_in_prompt": True}, {"special_token_in_prompt"}),
        ({"special_id_in_prompt": None}, set()),
        ({"similarity": 0.8}, {"near_identical_sides"}),
        ({"similarity": 0.79}, set()),
        ({"chosen_repetition": 0.5, **LONG}, {"chosen_loops"}),
        ({"rejected_language": "French"}, {"languages_differ"}),
        ({"prompt_language": "French"}, {"language_of_prompt_differs"}),
        ({"prompt_language": None, "rejected_language": None}, set()),
        ({"chosen_repetition": 0.9}, set()),
        ({"chosen_repetition": 0.7, "chosen_bytes": 79, **LONG}, set()),  # spelled byte by byte
        ({"chosen_repetition": 0.75, "chosen_bytes": 79, **LONG}, {"chosen_loops"}),
        ({"chosen_repetition": 0.7, "chosen_bytes": 80, **LONG}, {"chosen_loops"}),
        ({"rejected_repetition": 0.6, **LONG}, {"rejected_loops"}),
        ({"chosen_refuses": True}, {"chosen_refuses"}),
        ({"rejected_refuses": True}, {"rejected_refuses"}),
        ({"chosen_names_itself": True}, {"chosen_names_itself"}),
        ({"rejected_script": "Greek"}, {"scripts_differ"}),
        ({"chosen_script": "Greek", "rejected_script": "Greek"}, {"script_of_prompt_differs"}),
        ({"rejected_script": None}, set()),
        ({"control_character": True}, {"control_character"}),
        ({"prompt_contamination": 0.1, "contamination_file": "x"}, {"contaminated_prompt"}),
        ({"completion_contamination": 0.1, "contamination_file": "x"}, {"contaminated_completion"}),
        ({"votes_chosen": 2, "votes_rejected": 1}, {"judges_disagree"}),
        ({"votes_chosen": 1, "votes_rejected": 2}, {"judges_disagree", "majority_against_label"}),
        ({"votes_chosen": 0, "votes_rejected": 2}, {"majority_against_label"}),
        ({"votes_chosen": None, "votes_rejected": None}, set()),
    ],
)
def test_a_planted_row_is_found_by_its_checks_alone(change, names):
    rows = found(*GOOD, pair(99, **change))
    assert set(rows) == names
    assert all(99 in concerned for concerned in rows.values())


def test_a_contradiction_concerns_both_rows_and_names_the_other():
    swapped = pair(99, chosen_id="r1", rejected_id="c1", prompt_key=3, chosen_key=5, rejected_key=4)
    pairs = judged(table(*GOOD, swapped).lazy(), CHECKS)
    record = next(each for each in findings(pairs, CHECKS) if each["name"] == "contradictory_pair")
    others = [(example["row"], example["other_pair_id"]) for example in record["examples"]]
    assert others == [(1, "r1>c1"), (99, "c1>r1")]


def test_control_tokens_in_most_prompts_are_a_template():
    assert found(*(pair(row, control_token_in_prompt=row > 3) for row in range(10))) == {}


def test_more_than_eight_pairs_of_a_prompt():
    assert found(*(pair(row, prompt_id="same") for row in range(8))) == {}
    assert found(*(pair(row, prompt_id="same") for row in range(9))) == {"crowded_prompt": [0, 1, 2, 3, 4]}


def test_near_duplicates_name_the_other_pair_and_the_splits():
    """Prompts of rows 0 and 1 are in one group, the chosen side of row 2 and the rejected one of row 3 in another."""
    rows = [pair(0), pair(1, split="test"), pair(2), pair(3)]
    prompts = pl.DataFrame({"key": [0, 3], "near_prompt_group": [0, 0], "near_prompt_other": [1, 0]})
    completions = pl.DataFrame({"key": [7, 11], "near_completion_group": [5, 5], "near_completion_other": [3, 2]})
    whole = related(pl.DataFrame(rows, infer_schema_length=None), prompts, completions)
    records = {each["name"]: each for each in findings(judged(whole.lazy(), CHECKS), CHECKS) if each["rows"]}
    prompt, completion = "near_duplicate_prompt", "near_duplicate_completion"
    assert set(records) == {prompt, "near_duplicate_prompt_in_both_splits", completion}
    others = [(example["row"], example["other_pair_id"]) for example in records[completion]["examples"]]
    assert others == [(2, "c3>r3"), (3, "c2>r2")]
    assert records["near_duplicate_prompt"]["examples"][0]["other_pair_id"] == "c1>r1"


def test_records_have_what_the_page_needs():
    pairs = judged(table(*GOOD, pair(99, prompt_truncated=True), pair(98, double_bos=True)).lazy(), CHECKS)
    records = findings(pairs, CHECKS)
    assert [each["name"] for each in records if each["rows"]] == ["double_bos", "prompt_truncated"]
    record = records[1] if records[1]["rows"] else records[0]
    assert {key: type(value) for key, value in record.items()} == {
        "name": str,
        "severity": str,
        "title": str,
        "meaning": str,
        "rows": int,
        "of": int,
        "share": float,
        "column": str,
        "fix": str,
        "examples": list,
    }
    assert (record["of"], record["share"]) == (12, 1 / 12)


def test_the_worst_pairs_come_first():
    """A fail in one of 12 pairs weighs 100 · 11/12, an info 1 · 11/12."""
    pairs = judged(table(*GOOD, pair(99, prompt_truncated=True), pair(98, double_bos=True)).lazy(), CHECKS)
    listed = worst(pairs, findings(pairs, CHECKS))
    assert [(entry["row"], entry["findings"], entry["score"]) for entry in listed] == [
        (98, ["double_bos"], pytest.approx(91.6667)),
        (99, ["prompt_truncated"], pytest.approx(0.9167)),
    ]
    assert worst(pairs, []) == []


def prepared(**change: Any) -> pl.DataFrame:
    ids = {"chosen_id": ["a", "b", "c"], "rejected_id": ["x", "y", None]}
    table = Pair.sample(3, overrides={**ids, "source": ["s"] * 3})
    return table.with_columns(**change)


def test_rules_of_the_schema_that_hold_are_no_finding():
    assert broken_rules(prepared(), pl.Series([5, 6, 7])) is None
    assert rule_checks(["rule", "chosen_len"]) == ()


@pytest.mark.parametrize(
    ("change", "column", "places"),
    [
        ({"chosen_len": pl.Series([1, 0, 1], dtype=pl.Int32)}, "rule_chosen_len_min", [6]),
        ({"rejected_id": pl.Series(["a", "y", None])}, "rule_chosen_differs_from_rejected", [5]),
        ({"chosen_score": pl.Series([1.0, None, float("nan")])}, "rule_chosen_score_nan", [7]),
        ({"prompt_id": pl.Series(["p", None, "p"])}, "rule_prompt_id_nullability", [6]),
    ],
)
def test_a_broken_rule_of_the_schema_is_a_finding(change, column, places):
    broken = broken_rules(prepared(**change), pl.Series([5, 6, 7]))
    assert broken.filter(column)["place"].to_list() == places
    whole = with_rules(pl.DataFrame({"x": range(8)}), [broken])
    assert whole.filter(column)["x"].to_list() == places
    checks = rule_checks(whole.columns)
    assert [(check.name, check.severity) for check in checks] == [(column, "fail")]
