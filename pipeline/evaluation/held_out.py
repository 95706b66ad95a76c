"""Held-out pairs that can be ranked, with one score per accuracy: 1 where the chosen side wins, 0 where it loses.

A tie scores one half, so that the reference as its own policy has accuracy 0.5 and not 0.
"""

from __future__ import annotations

import polars as pl


def win_score(chosen: pl.Expr, rejected: pl.Expr) -> pl.Expr:
    """1.0 where chosen > rejected, 0.5 where they are equal, 0.0 otherwise; null where either is null."""
    return (chosen > rejected).cast(pl.Float64) + 0.5 * (chosen == rejected).cast(pl.Float64)


def win_scores(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs that can be ranked, with one win-score column per accuracy.

    Drops rows of one completion and pairs with a non-finite margin; `evaluation_summary` counts both.
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
