"""Held-out figures while training, against numbers worked out by hand."""

import polars as pl
import pytest

from scoreonce.pipeline.evaluation.while_training import held_out_figures

SIDES = ("chosen", "rejected")


def table(rows):
    """Rows of tokens, log-ratio and entropy of the chosen, then of the rejected side; log-probs are not read."""
    names = [f"{side}_{kind}" for side in SIDES for kind in ("len", "logratios", "entropy")]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.Float64), orient="row")
    return frame.rename({f"{side}_entropy": f"policy_{side}_entropy" for side in SIDES}).with_columns(
        pl.col("chosen_len", "rejected_len").cast(pl.Int32),
        pair_id=pl.int_range(pl.len()).cast(pl.String),
        source=pl.lit(None, pl.String),
        margin=pl.col("chosen_logratios") - pl.col("rejected_logratios"),
        **{f"{model}_{side}_logps": pl.lit(-1.0) for model in ("policy", "ref") for side in SIDES},
    )


def test_pairs():
    """Margins 3, -1 and 0: accuracy (1 + 0 + 1/2) / 3, mean 2/3. Chosen 1 nat over 10 tokens, rejected -1 over 4; both
    0 over 14. Entropy 14 + 7 nats over 14 tokens.
    """
    found = held_out_figures(table([(4, 2.0, 6.0, 2, -1.0, 3.0), (5, -1.0, 5.0, 1, 0.0, 2.0), (1, 0, 3.0, 1, 0, 2.0)]))
    assert found == pytest.approx(
        {
            "accuracy": 0.5,
            "margin": 2 / 3,
            "chosen_logratio_per_token": 0.1,
            "rejected_logratio_per_token": -0.25,
            "cross_entropy_increase": 0.0,
            "entropy_per_token": 1.5,
        }
    )


def test_unpaired_data():
    """Good ones 2 and -1, bad ones 0 and -2: of four comparisons 2 > 0, 2 > -2 and -1 > -2. Means 0.5 and -1."""
    good = [(4, 2.0, 6.0, 0, None, None), (6, -1.0, 4.0, 0, None, None)]
    bad = [(0, None, None, 2, 0.0, 1.0), (0, None, None, 3, -2.0, 4.0)]
    assert held_out_figures(table(good + bad)) == pytest.approx(
        {
            "accuracy": 0.75,
            "margin": 1.5,
            "chosen_logratio_per_token": 0.1,
            "rejected_logratio_per_token": -0.4,
            "cross_entropy_increase": 1 / 15,
            "entropy_per_token": 1.0,
        }
    )


def test_what_is_not_known_is_none():
    """Completions without another to compare with, and a policy that gives no numbers."""
    one_kind = held_out_figures(table([(4, 2.0, 6.0, 0, None, None)]))
    assert (one_kind["accuracy"], one_kind["margin"], one_kind["rejected_logratio_per_token"]) == (None, None, None)
    assert one_kind["chosen_logratio_per_token"] == 0.5
    nan = float("nan")
    assert set(held_out_figures(table([(4, nan, nan, 2, nan, nan)])).values()) == {None}
