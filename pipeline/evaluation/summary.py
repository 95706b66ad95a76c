"""Held-out accuracies and margins of a policy, overall and by source, each with a 95 % interval.

Every rate is a mean of the per-pair scores in `held_out`. Intervals take pairs as independent; where many pairs share
a prompt they are too narrow.
"""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from scoreonce.pipeline.evaluation.held_out import win_scores
from scoreonce.pipeline.evaluation.intervals import mean_half_width, wilson

RATES = (
    "accuracy",
    "length_normalised_accuracy",
    "length_controlled_accuracy",
    "policy_ranking_accuracy",
    "reference_ranking_accuracy",
    "policy_average_ranking_accuracy",
    "reference_average_ranking_accuracy",
)

Stratum = tuple[pl.Expr, tuple[pl.Expr, pl.Expr], pl.Expr]
_LONGER, _EQUAL = pl.col("chosen_len") > pl.col("rejected_len"), pl.col("chosen_len") == pl.col("rejected_len")


def _rate(name: str) -> list[pl.Expr]:
    low, high = wilson(pl.col(name).mean(), pl.len())
    return [pl.col(name).mean(), low.alias(f"{name}_low"), high.alias(f"{name}_high")]


def _length_controlled() -> list[pl.Expr]:
    """½ (accuracy where the chosen side is longer + accuracy where it is shorter).

    A policy that only prefers the longer side, or only the shorter, gets one half exactly, whatever the share of pairs
    whose chosen side is longer. Pairs of equal length count with weight one half in both strata. Null where a stratum
    is empty. The interval combines the strata's Wilson intervals by squares (Newcombe 1998, method 10; for a sum,
    Zou and Donner 2008).
    """
    (longer, longer_ends, _), (shorter, shorter_ends, _) = length_strata()
    squares = [(longer - longer_ends[end]) ** 2 + (shorter - shorter_ends[end]) ** 2 for end in (0, 1)]
    below, above = (square.sqrt() / 2 for square in squares)
    centre = (longer + shorter) / 2
    name = "length_controlled_accuracy"
    return [centre.alias(name), (centre - below).alias(f"{name}_low"), (centre + above).alias(f"{name}_high")]


def length_strata() -> list[Stratum]:
    """The pairs with a longer chosen side, and those with a shorter one: accuracy, its interval and weight of each.

    Pairs of equal length weigh one half in both. Accuracy and interval are null where a stratum is empty.
    """
    return [_stratum(pl.when(_EQUAL).then(0.5).when(side).then(1.0).otherwise(0.0)) for side in (_LONGER, ~_LONGER)]


def _stratum(weight: pl.Expr) -> Stratum:
    count = pl.when(weight.sum() > 0).then(weight.sum())
    share = (pl.col("accuracy") * weight).sum() / count
    return share, wilson(share, count), weight.sum()


def cross_entropy_increase() -> pl.Expr:
    """Σ (ref − policy) / Σ tokens over the completions that are there, in nats per token.

    It estimates the forward KL of reference to policy where the completions were sampled from the reference; otherwise
    it is only a measure of drift.
    """
    logratios = pl.sum_horizontal("chosen_logratios", "rejected_logratios")
    return -logratios.sum() / (pl.col("chosen_len").sum() + pl.col("rejected_len").sum())


def _statistics() -> list[pl.Expr]:
    """All figures of a group of pairs, as aggregations."""
    margin = pl.col("margin")
    half_width = mean_half_width(margin)
    rates = [expression for name in RATES if name != "length_controlled_accuracy" for expression in _rate(name)]
    return [
        pl.len().alias("pairs"),
        *rates,
        *_length_controlled(),
        margin.mean().alias("margin"),
        (margin.mean() - half_width).alias("margin_low"),
        (margin.mean() + half_width).alias("margin_high"),
        *(margin.quantile(q, "linear").alias(f"margin_p{q * 100:.0f}") for q in (0.1, 0.5, 0.9)),
        pl.col("chosen_logratios").mean(),
        pl.col("rejected_logratios").mean(),
        mean_half_width(pl.col("chosen_logratios")).alias("chosen_logratios_half_width"),
        cross_entropy_increase().alias("cross_entropy_increase"),
        (margin == 0).mean().alias("ties"),
        pl.when(_EQUAL).then(0.5).when(_LONGER).then(1.0).otherwise(0.0).mean().alias("chosen_is_longer"),
    ]


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for non-finite floats, which JSON cannot hold."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def evaluation_summary(pairs: pl.DataFrame) -> dict[str, Any]:
    """Figures of all pairs and, under `by_source`, of each source in order of size.

    Rates are shares in [0, 1] with `_low` and `_high`; margins and log-ratios are nats per completion, without β. Each
    is None where nothing can be computed, as for no pairs, or the spread of a single one. `unranked` counts
    rows of one completion, `not_finite` pairs whose margin is NaN or infinite; neither enters any figure.
    Unpaired data have `unpaired`: numbers of good and bad completions, their mean log-ratios, and `ranking`.
    """
    scored = win_scores(pairs)
    overall = scored.select(_statistics()).row(0, named=True)
    largest_first = -pl.col("pairs").cast(pl.Int64)
    groups = scored.group_by("source").agg(_statistics()).sort(largest_first, "source", nulls_last=True)
    return finite(overall) | {
        **({"unpaired": _unpaired(pairs)} if pairs["chosen_logratios"].null_count() else {}),
        "unranked": pairs["margin"].null_count(),
        "not_finite": pairs.height - pairs["margin"].null_count() - scored.height,
        "by_source": [finite(row) for row in groups.iter_rows(named=True)],
    }


def _unpaired(pairs: pl.DataFrame) -> dict[str, Any]:
    """`ranking`: how often a good completion has a higher log-ratio than a bad one, over all such two; ties count half.

    By the rank sum of the good ones, W: (W - n (n + 1) / 2) / (n m), for n good and m bad (Mann and Whitney 1947).
    """
    single = pairs.filter(pl.col("margin").is_null()).select(
        ratio=pl.coalesce("chosen_logratios", "rejected_logratios"), good=pl.col("chosen_logratios").is_not_null()
    )
    good, ratio = pl.col("good"), pl.col("ratio")
    n, m = good.sum().cast(pl.Int64), (~good).sum().cast(pl.Int64)
    figures = single.with_columns(rank=ratio.rank()).select(
        good=n,
        bad=m,
        chosen_logratios=ratio.filter(good).mean(),
        rejected_logratios=ratio.filter(~good).mean(),
        ranking=(pl.col("rank").filter(good).sum() - n * (n + 1) / 2) / pl.when(n * m > 0).then(n * m),
    )
    return finite(figures.row(0, named=True))


def paired_difference(pairs: pl.DataFrame, others: pl.DataFrame) -> dict[str, Any]:
    """Accuracy of `pairs` minus that of `others` on the pairs that both have, with a 95 % normal interval.

    Sharper than comparing two intervals: pairs that both policies get right or wrong cancel. Keys `pairs`,
    `difference`, `low`, `high`; None where fewer than two pairs are shared.
    """
    shared = win_scores(pairs).join(win_scores(others), on="pair_id", suffix="_other")
    gap = pl.col("accuracy") - pl.col("accuracy_other")
    half_width = mean_half_width(gap)
    return finite(
        shared.select(
            pairs=pl.len(), difference=gap.mean(), low=gap.mean() - half_width, high=gap.mean() + half_width
        ).row(0, named=True)
    )
