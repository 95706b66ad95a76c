"""AUCs with their intervals, against a definition written out pair by pair."""

import numpy as np
import polars as pl
import pytest

from scoreonce.pipeline.audit.summary.shortcuts import auc, model_lead, shortcuts


def by_definition(difference: list[int]) -> float:
    """Each pair in both orders: scores d with label 1, −d with label 0; the share of (1, 0) in the right order."""
    positive, negative = np.array(difference), -np.array(difference)
    above = positive[:, None] > negative[None, :]
    return float(np.mean(above + 0.5 * (positive[:, None] == negative[None, :])))


@pytest.mark.parametrize("difference", [[1], [3, -1, 0, 2, 2, -5], [0, 0, 0], [-1, -2], [1, 1, -1]])
def test_auc_is_that_of_both_orders(difference):
    value, low, high = auc(np.array(difference), np.arange(len(difference)))
    assert value == pytest.approx(by_definition(difference))
    assert 0 <= low <= value <= high <= 1


def test_auc_of_sides_that_always_differ_is_the_share_of_wins():
    """70 of 100 pairs of equal size: AUC 0.7, DeLong's error √(4 · 0.7 · 0.3 · ¼ …): here √(0.7 · 0.3 / 99)."""
    difference = np.array([1] * 70 + [-1] * 30)
    value, low, high = auc(difference, np.arange(100))
    assert value == pytest.approx(0.7)
    assert (high - low) / 2 == pytest.approx(1.959964 * np.sqrt(0.7 * 0.3 / 99))


def test_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(5)
    inside = 0
    for _ in range(1000):
        _, low, high = auc(np.rint(random.normal(3, 10, 150)).astype(int), np.arange(150))
        inside += low <= 0.6643 <= high  # P(X + Y > 0), X + Y ~ N(0.6, 2): Φ(0.6 / √2)
    assert 0.93 <= inside / 1000 <= 0.97


def test_pairs_of_one_prompt_widen_the_interval():
    difference = np.repeat([1, 1, -1, 1, -1], 20)
    alone, together = auc(difference, np.arange(100)), auc(difference, np.repeat(np.arange(5), 20))
    assert together[0] == alone[0]
    assert together[2] - together[1] > 3 * (alone[2] - alone[1])


def pairs(count: int = 200, **columns) -> pl.LazyFrame:
    prompts = [f"p{number}" for number in range(count)]
    base = {"prompt_id": prompts, "rejected_id": ["r"] * count, "source": ["a", "b"] * (count // 2)}
    return pl.DataFrame({**base, **columns}).lazy()


def test_shortcuts_by_source_and_of_all():
    """Source a: chosen longer throughout; source b: shorter throughout."""
    found = shortcuts(pairs(chosen_len=[5, 3] * 100, rejected_len=[4] * 200))
    assert {(record["name"], record["source"]): record["auc"] for record in found} == {
        ("length", None): 0.5,
        ("length", "a"): 1.0,
        ("length", "b"): 0.0,
    }
    assert (found[0]["pairs"], found[0]["decided"], found[0]["wins"]) == (200, 200, 0.5)


def test_no_pairs_and_completions_only():
    lengths = {"chosen_len": [], "rejected_len": []}
    assert shortcuts(pairs(0, **lengths).cast(dict.fromkeys(lengths, pl.Int32))) == []
    table = pairs(4, chosen_len=[1] * 4, rejected_len=[0] * 4).with_columns(rejected_id=pl.lit(None, pl.String))
    assert shortcuts(table) == []


def test_position_and_refusal():
    refuses = {"chosen_refuses": [False] * 200, "rejected_refuses": [True, False] * 100}
    found = shortcuts(pairs(chosen_position=[1, 1, 1, 2] * 50, **refuses))
    overall = {record["name"]: record for record in found if record["source"] is None}
    assert overall["position"]["auc"] == pytest.approx(0.75)
    assert (overall["refusal"]["wins"], overall["refusal"]["decided"]) == (0.0, 100)


def test_the_better_model_is_known_from_the_other_half_of_the_prompts():
    """Model x always beats y. Of models that were in one pair alone nothing is known but that pair's own label."""
    names = [f"m{number}" for number in range(200)]
    once = model_lead(pairs(chosen_model=names, rejected_model=[f"{name}'" for name in names])).collect()
    assert once["model_lead"].null_count() == 200
    table = model_lead(pairs(chosen_model=["x"] * 200, rejected_model=["y"] * 200)).collect()
    assert table["model_lead"].to_list() == [1] * 200
    noise = np.random.default_rng(1).random(2000) < 0.5
    models = [["x", "y"][int(flip)] for flip in noise], [["y", "x"][int(flip)] for flip in noise]
    lead = model_lead(pairs(2000, chosen_model=models[0], rejected_model=models[1]))
    assert shortcuts(lead)[0]["auc"] == pytest.approx(0.5, abs=0.05)
