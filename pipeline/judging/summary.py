"""Figures of a judgement: win rate, ties, position bias and the win rate at equal lengths, with 95 % intervals.

Comparisons of one prompt are not independent. So a rate is the mean over the prompts of each prompt's own rate, and
its interval takes prompts as independent: Wilson's for p of n* prompts, where n* = p(1 − p) / (s² / n) is how many
whole wins and losses would be as sure as the n rates, of variance s², are (Korn and Graubard 1998, with Wilson's
interval for theirs). It is n where all rates are the same.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import polars as pl

from scoreonce.pipeline.evaluation.intervals import mean_interval, wilson
from scoreonce.pipeline.judging.length_control import length_controlled

_BOTH = pl.col("preference_first").is_not_null() & pl.col("preference_second").is_not_null()


def preference() -> pl.Expr:
    """The preference of a comparison: the mean of both orders, null where one is absent.

    One order alone would count the judge's position bias as preference.
    """
    return pl.when(_BOTH).then((pl.col("preference_first") + pl.col("preference_second")) / 2)


def judgement_summary(judgements: pl.DataFrame) -> dict[str, Any]:
    """Figures of rows of `schemas.tables.Judgement`; rates are None where no comparison was answered.

    `win_rate` counts a tie, or two answers that contradict each other, as one half. `position` is None for a judge that
    sees no order.
    """
    answered = judgements.drop_nulls("preference")
    rate = rate_of_prompts(answered, pl.col("preference"))
    return {
        "comparisons": judgements.height,
        "unanswered": judgements.height - answered.height,
        "prompts": answered["prompt_id"].n_unique(),
        "win_rate": rate,
        "wins": answered.filter(pl.col("preference") > 0.5).height,
        "losses": answered.filter(pl.col("preference") < 0.5).height,
        "ties": answered.filter(pl.col("preference") == 0.5).height,
        "position": _position(judgements.filter(_BOTH)),
        "length_controlled_win_rate": _at_equal_lengths(answered),
        "completion_chars": answered["completion_chars"].mean(),
        "other_chars": answered["other_chars"].mean(),
    }


def score_summary(scores: pl.DataFrame) -> list[dict[str, Any]]:
    """Of each label in rows of `schemas.tables.SampleScore`: samples, those without a score, and the mean score."""
    found = []
    for (label,), rows in scores.group_by("label", maintain_order=True):
        given = rows.drop_nulls("score")
        means = given.group_by("prompt_id", maintain_order=True).agg(pl.col("score").mean())["score"]
        mean, low, high = mean_interval(means.to_list()) if len(means) else (None, None, None)
        counts = {"label": label, "samples": rows.height, "unscored": rows.height - given.height}
        found.append({**counts, "score": mean, "score_low": low, "score_high": high})
    return found


def rate_of_prompts(rows: pl.DataFrame, value: pl.Expr) -> dict[str, float] | None:
    """The mean over prompts of the mean of a value in [0, 1], and both ends of its interval; None for no rows."""
    means = rows.group_by("prompt_id", maintain_order=True).agg(value.mean().alias("rate"))["rate"]
    if not len(means):
        return None
    rates: list[float] = means.to_list()
    rate = math.fsum(rates) / len(rates)
    variance = math.fsum((each - rate) ** 2 for each in rates) / max(1, len(rates) - 1)
    count = rate * (1 - rate) * len(rates) / variance if variance else len(rates)
    low, high = wilson(pl.lit(rate), pl.lit(float(count)))
    return pl.select(rate=pl.lit(rate), low=low, high=high).row(0, named=True)


def _position(both: pl.DataFrame) -> dict[str, Any] | None:
    """How a judge's answers depend on the order, over the comparisons that have both."""
    if not both.height:
        return None
    # The first completion shown wins with preference_first in one order, with 1 - preference_second in the other.
    first = (pl.col("preference_first") + 1 - pl.col("preference_second")) / 2
    changed = (pl.col("preference_first") != pl.col("preference_second")).cast(pl.Float64)
    return {
        "comparisons": both.height,
        "changed": rate_of_prompts(both, changed),
        "first_wins": rate_of_prompts(both, first),
    }


def _at_equal_lengths(answered: pl.DataFrame) -> dict[str, Any] | None:
    columns = ("preference", "completion_chars", "other_chars", "prompt_id")
    if not answered.height:
        return None
    found = length_controlled(*(answered[name].to_list() for name in columns))
    return None if found is None else asdict(found)
