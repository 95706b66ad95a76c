"""Held-out accuracy of trainings on real text, and differences of it, with intervals over the held-out pairs.

Means over the seeds that were trained. With two seeds Student's quantile is so large (13 for one interval of 95 %, 64
for one of five) that nothing could be told of all seeds; these intervals are of these seeds alone. Pairs of one prompt
are not independent, so the variance is that of sums by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import polars as pl

from scoreonce.pipeline.evaluation.held_out import win_scores
from scoreonce.pipeline.evaluation.intervals import Interval

ERROR = 0.05
Tables = Sequence[pl.DataFrame]  # held-out pairs of one candidate, a table for each seed


def accuracy(tables: Tables, error: float = ERROR) -> Interval:
    """The share of pairs that are ranked rightly; the interval has level 1 - error."""
    return _interval(_scores(tables).rename({"accuracy": "value"}), error)


def difference(first: Tables, second: Tables, error: float = ERROR) -> Interval:
    """Accuracy of a candidate minus that of another, over the pairs that both rank."""
    both = _scores(first).join(_scores(second).drop("prompt_id"), on="pair_id", suffix="_second")
    return _interval(both.with_columns(value=pl.col("accuracy") - pl.col("accuracy_second")), error)


def _scores(tables: Tables) -> pl.DataFrame:
    """The mean score over seeds of each pair that all seeds rank: `pair_id`, `prompt_id`, `accuracy`."""
    ranked = pl.concat([win_scores(table).select("pair_id", "prompt_id", "accuracy") for table in tables])
    means = ranked.group_by("pair_id", "prompt_id", maintain_order=True).agg(pl.col("accuracy").mean(), seeds=pl.len())
    return means.filter(pl.col("seeds") == len(tables)).drop("seeds")


def _interval(pairs: pl.DataFrame, error: float) -> Interval:
    mean = pairs["value"].mean()
    sums = pairs.group_by("prompt_id").agg((pl.col("value") - mean).sum())["value"]
    variance = (sums**2).sum() / len(pairs) ** 2 * len(sums) / max(1, len(sums) - 1)
    half = NormalDist().inv_cdf(1 - error / 2) * variance**0.5
    return Interval(mean, mean - half, mean + half)
