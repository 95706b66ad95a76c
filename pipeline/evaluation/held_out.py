"""What held-out pairs say about a policy: a table of `EvaluationPair` in, rates with intervals out.

Every rate here is a mean of per-pair scores: 1 where the chosen side wins, 0 where it loses and one half for a tie, so
that the reference as its own policy has accuracy 0.5 and not 0. Intervals cover 95 %. They take pairs as independent;
where many pairs share a prompt they are too narrow.
"""

from __future__ import annotations

import math
from typing import Any

import polars as pl

Z95 = 1.959963984540054
RATES = (
    "accuracy",
    "length_normalised_accuracy",
    "length_controlled_accuracy",
    "policy_ranking_accuracy",
    "reference_ranking_accuracy",
    "policy_average_ranking_accuracy",
    "reference_average_ranking_accuracy",
)

_LONGER, _EQUAL = pl.col("chosen_len") > pl.col("rejected_len"), pl.col("chosen_len") == pl.col("rejected_len")


def win_score(chosen: pl.Expr, rejected: pl.Expr) -> pl.Expr:
    """1.0 where chosen > rejected, 0.5 where they are equal, 0.0 otherwise; null where either is null."""
    return (chosen > rejected).cast(pl.Float64) + 0.5 * (chosen == rejected).cast(pl.Float64)


def wilson(share: pl.Expr, count: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Both ends of the 95 % score interval of a share of `count` pairs (Wilson 1927).

    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n). Half points for ties make it conservative: a score in
    {0, ½, 1} varies less than a binary one of the same mean.
    """
    ratio = Z95**2 / count
    centre = (share + ratio / 2) / (1 + ratio)
    half = Z95 * (share * (1 - share) / count + ratio / (4 * count)).sqrt() / (1 + ratio)
    return centre - half, centre + half


def held_out(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs that can be ranked, with one win-score column per accuracy.

    Drops completion-only rows and pairs with a non-finite margin; `summarise` counts the latter.
    """

    def per_token(name: str) -> pl.Expr:
        return pl.col(name) / pl.col(f"{'chosen' if 'chosen' in name else 'rejected'}_len")

    return pairs.filter(pl.col("margin").is_finite()).with_columns(
        accuracy=win_score(pl.col("margin"), pl.lit(0.0)),
        length_normalised_accuracy=win_score(per_token("chosen_logratios"), per_token("rejected_logratios")),
        policy_ranking_accuracy=win_score(pl.col("policy_chosen_logps"), pl.col("policy_rejected_logps")),
        reference_ranking_accuracy=win_score(pl.col("ref_chosen_logps"), pl.col("ref_rejected_logps")),
        policy_average_ranking_accuracy=win_score(per_token("policy_chosen_logps"), per_token("policy_rejected_logps")),
        reference_average_ranking_accuracy=win_score(per_token("ref_chosen_logps"), per_token("ref_rejected_logps")),
    )


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
    strata = [_stratum(pl.when(_EQUAL).then(0.5).when(side).then(1.0).otherwise(0.0)) for side in (_LONGER, ~_LONGER)]
    (longer, longer_ends), (shorter, shorter_ends) = strata
    squares = [(longer - longer_ends[end]) ** 2 + (shorter - shorter_ends[end]) ** 2 for end in (0, 1)]
    below, above = (square.sqrt() / 2 for square in squares)
    centre = (longer + shorter) / 2
    name = "length_controlled_accuracy"
    return [centre.alias(name), (centre - below).alias(f"{name}_low"), (centre + above).alias(f"{name}_high")]


def _stratum(weight: pl.Expr) -> tuple[pl.Expr, tuple[pl.Expr, pl.Expr]]:
    count = pl.when(weight.sum() > 0).then(weight.sum())
    share = (pl.col("accuracy") * weight).sum() / count
    return share, wilson(share, count)


def _statistics() -> list[pl.Expr]:
    """All figures of a group of pairs, as aggregations.

    `cross_entropy_increase` is Σ (ref − policy) / Σ tokens over both sides, in nats per token: the forward KL of
    reference to policy where the completions were sampled from the reference, otherwise only a measure of drift.
    """
    margin, tokens = pl.col("margin"), pl.col("chosen_len").sum() + pl.col("rejected_len").sum()
    half_width = Z95 * margin.std() / pl.len().sqrt()
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
        (Z95 * pl.col("chosen_logratios").std() / pl.len().sqrt()).alias("chosen_logratios_half_width"),
        (-(pl.col("chosen_logratios") + pl.col("rejected_logratios")).sum() / tokens).alias("cross_entropy_increase"),
        (margin == 0).mean().alias("ties"),
        pl.when(_EQUAL).then(0.5).when(_LONGER).then(1.0).otherwise(0.0).mean().alias("chosen_is_longer"),
    ]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row with non-finite floats as None, so that it is valid JSON."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def evaluation_summary(pairs: pl.DataFrame) -> dict[str, Any]:
    """Figures of all pairs and, under `by_source`, of each source in order of size.

    Rates are shares in [0, 1] with `_low` and `_high`; margins and log-ratios are nats per completion, without β. Each
    is None where nothing can be computed, as for no pairs, or the spread of a single one. `unranked` counts
    completion-only rows, `not_finite` pairs whose margin is NaN or infinite; neither enters any figure.
    """
    scored = held_out(pairs)
    overall = scored.select(_statistics()).row(0, named=True)
    largest_first = -pl.col("pairs").cast(pl.Int64)
    groups = scored.group_by("source").agg(_statistics()).sort(largest_first, "source", nulls_last=True)
    return _plain(overall) | {
        "unranked": pairs["margin"].null_count(),
        "not_finite": pairs.height - pairs["margin"].null_count() - scored.height,
        "by_source": [_plain(row) for row in groups.iter_rows(named=True)],
    }


def paired_difference(pairs: pl.DataFrame, others: pl.DataFrame) -> dict[str, Any]:
    """Accuracy of `pairs` minus that of `others` on the pairs that both have, with a 95 % normal interval.

    Sharper than comparing two intervals: pairs that both policies get right or wrong cancel. Keys `pairs`,
    `difference`, `low`, `high`; None where fewer than two pairs are shared.
    """
    shared = held_out(pairs).join(held_out(others), on="pair_id", suffix="_other")
    gap = pl.col("accuracy") - pl.col("accuracy_other")
    half_width = Z95 * gap.std() / pl.len().sqrt()
    return _plain(
        shared.select(
            pairs=pl.len(), difference=gap.mean(), low=gap.mean() - half_width, high=gap.mean() + half_width
        ).row(0, named=True)
    )
