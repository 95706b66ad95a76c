"""Flip rates from repeated judgements: worked by hand, simulated, and planted into real votes."""

import gzip
import json

import numpy as np
import polars as pl
import pytest

from scoreonce.pipeline.audit.checks.judgements import Ballot, flip_rate, judgements

VOTES = ("votes_chosen", "votes_rejected")


def rows(*labels: tuple[str, str]) -> pl.LazyFrame:
    """Pairs (chosen, rejected) with what `relations` says of them."""
    table = pl.DataFrame(list(labels), schema=["chosen_id", "rejected_id"], orient="row")
    pair = pl.col("chosen_id") + pl.col("rejected_id")
    swapped = pl.col("rejected_id") + pl.col("chosen_id")
    known = table.select(pair).to_series().implode()
    return table.with_columns(
        copies=pl.len().over(pair), opposite_pair_id=pl.when(swapped.is_in(known)).then(swapped)
    ).lazy()


def votes(chosen: list[int], rejected: list[int]) -> dict:
    table = pl.DataFrame({"votes_chosen": chosen, "votes_rejected": rejected}, schema=dict.fromkeys(VOTES, pl.Int32))
    return {"pairs": pl.LazyFrame(), "votes": table}


@pytest.mark.parametrize(("disagreement", "rate"), [(0.0, 0.0), (0.18, 0.1), (0.32, 0.2), (0.5, 0.5), (0.6, 0.5)])
def test_flip_rate(disagreement, rate):
    """2 · 0.1 · 0.9 = 0.18; 2 · 0.2 · 0.8 = 0.32."""
    assert flip_rate(disagreement) == pytest.approx(rate)


def test_rows_in_both_orders_are_judgements():
    """a/b three times, once the other way: of 3 pairs of judgements 2 differ. c/d twice the same; e/f once."""
    found = judgements(rows(("a", "b"), ("b", "a"), ("a", "b"), ("c", "d"), ("c", "d"), ("e", "f")))
    assert (found["pairs"], found["judgements"], found["dissent"], found["kind"]) == (2, 5, 1, "rows")
    assert found["disagreement"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["flip_rate"] == pytest.approx((1 - np.sqrt(1 - 2 / 3)) / 2)
    assert found["suggested_label_smoothing"] == found["flip_rate"]


def test_votes_and_the_error_of_their_majority():
    """3 : 0 and 2 : 1: d = (0 + 2/3) / 2 = 1/3, ε = 0.2113; a majority of three errs with 3 ε² (1 − ε) + ε³."""
    found = judgements(**votes([3, 2], [0, 1]))
    rate = (1 - np.sqrt(1 / 3)) / 2
    assert found["flip_rate"] == pytest.approx(rate)
    assert found["suggested_label_smoothing"] == pytest.approx(3 * rate**2 * (1 - rate) + rate**3)


def test_judges_who_always_agree():
    """No disagreement among 100 pairs: its interval starts at 0 sharp."""
    found = judgements(**votes([2] * 100, [0] * 100))
    assert (found["disagreement"], found["disagreement_low"], found["flip_rate_low"]) == (0, 0, 0)
    assert found["flip_rate_high"] == pytest.approx(flip_rate(1.96**2 / (100 + 1.96**2)), rel=1e-3)


def test_too_little_to_say():
    assert judgements(rows(("a", "b"), ("c", "d"))) is None
    assert judgements(rows(("a", "b"), ("b", "a"))) is None
    assert judgements(**votes([1, 1, 0], [0, 0, 0])) is None


@pytest.mark.parametrize(
    ("votes", "ballot", "counts"),
    [
        ([1, 2, 2, 0], Ballot(1, 2), (1, 2)),  # 0 is a tie
        ({"one": 0.0, "two": 0.5, "three": 0.9}, Ballot(0, 1), (1, 1)),
        ([None, "x", True], Ballot(0, 1), (0, 0)),
        (1, Ballot(0, 1), (0, 1)),
        (None, Ballot(0, 1), (0, 0)),
    ],
)
def test_counting_votes(votes, ballot, counts):
    assert ballot.count(votes) == counts


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.35])
def test_simulated_flips_are_estimated(rate):
    random = np.random.default_rng(7)
    wrong = (random.random((3000, 3)) < rate).sum(axis=1)
    found = judgements(**votes((3 - wrong).tolist(), wrong.tolist()))
    assert found["flip_rate_low"] <= rate <= found["flip_rate_high"]
    assert found["flip_rate_high"] - found["flip_rate_low"] < 0.1


def test_flips_planted_into_real_votes(shared):
    """Unanimous real pairs (three people, PandaLM), each vote flipped with probability 0.1."""
    with gzip.open(shared / "data/prefs/pandalm_3humans.jsonl.gz") as lines:
        real = [Ballot(1, 2).count(json.loads(line)["votes"]) for line in lines]
    random = np.random.default_rng(3)
    wrong = [int((random.random(3) < 0.1).sum()) for pair in real if 3 in pair]
    assert len(wrong) > 500
    found = judgements(**votes([3 - number for number in wrong], wrong))
    assert found["flip_rate_low"] <= 0.1 <= found["flip_rate_high"]
