"""Measures of all pairs and of each source, each an aggregate over pairs, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

MOST_SOURCES = 200

_CHOSEN, _REJECTED = pl.col("chosen_len") > 0, pl.col("rejected_len") > 0
_PAIR = _CHOSEN & _REJECTED
_PROMPTS = pl.col("prompt_id").hash().n_unique()  # 8 bytes of each; ids as text take 48
_LONGER, _SHORTER = pl.col("chosen_len") > pl.col("rejected_len"), pl.col("chosen_len") < pl.col("rejected_len")


def pair_measures() -> dict[str, pl.Expr]:
    """Measures of prepared pairs: shares in [0, 1], lengths in tokens."""
    return {
        "longer_side_wins": (_PAIR & _LONGER).sum() / (_PAIR & (_LONGER | _SHORTER)).sum(),
        "mean_prompt_len": pl.col("prompt_len").mean(),
        "mean_chosen_len": pl.col("chosen_len").filter(_CHOSEN).mean(),
        "mean_rejected_len": pl.col("rejected_len").filter(_REJECTED).mean(),
        "pairs_per_prompt": pl.len() / _PROMPTS,
        "mean_similarity": pl.col("similarity").mean(),
        "chosen_refusals": pl.col("chosen_refuses").mean(),
        "rejected_refusals": pl.col("rejected_refuses").mean(),
        "chosen_cut": pl.col("chosen_truncated").filter(_CHOSEN).mean(),
        "rejected_cut": pl.col("rejected_truncated").filter(_REJECTED).mean(),
        "mean_score_gap": (pl.col("chosen_score") - pl.col("rejected_score")).mean(),
    }


def whole_measures() -> dict[str, pl.Expr]:
    """Measures that make sense only for all pairs together."""
    return {"most_pairs_of_a_prompt": pl.col("pairs_of_prompt").max(), "prompts": _PROMPTS}


def measured(pairs: pl.LazyFrame, measures: Mapping[str, pl.Expr]) -> dict[str, float]:
    """The measures over all pairs; without those that have no finite value."""
    # One after the other: of most of them polars holds the columns of all pairs.
    found = {name: pairs.select(value.cast(pl.Float64)) for name, value in measures.items()}
    return _finite({name: value.collect(engine="streaming").item() for name, value in found.items()})


def by_source(pairs: pl.LazyFrame, measures: Mapping[str, pl.Expr]) -> list[dict[str, Any]]:
    """The same by source, largest first, at most `MOST_SOURCES`, with pairs and share."""
    table = pairs.group_by("source").agg(pl.len().alias("pairs")).collect(engine="streaming")
    for name, value in measures.items():
        column = pairs.group_by("source").agg(value.cast(pl.Float64).alias(name)).collect(engine="streaming")
        table = table.join(column, on="source", how="left", nulls_equal=True)
    table = table.sort(-pl.col("pairs").cast(pl.Int64), "source", nulls_last=True)
    of = max(table["pairs"].sum(), 1)
    return [
        {"source": row["source"], "pairs": row["pairs"], "share": row["pairs"] / of, **_finite(row)}
        for row in table.head(MOST_SOURCES).to_dicts()
    ]


def known(measures: Mapping[str, pl.Expr], columns: list[str]) -> dict[str, pl.Expr]:
    """The measures whose columns exist."""
    return {name: value for name, value in measures.items() if set(value.meta.root_names()) <= set(columns)}


def _finite(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, float) and math.isfinite(value)}
