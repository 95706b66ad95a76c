"""Held-out figures of a policy that is being trained: those of `evaluation_summary`, and more by token."""

from __future__ import annotations

from typing import Any, Literal

import polars as pl

from scoreonce.pipeline.evaluation.summary import cross_entropy_increase, evaluation_summary, finite
from scoreonce.schemas import columns as c
from scoreonce.schemas import held_out as h

Side = Literal["chosen", "rejected"]
POLICY_ENTROPY = (c.POLICY_CHOSEN_ENTROPY.name, c.POLICY_REJECTED_ENTROPY.name)


def held_out_figures(pairs: pl.DataFrame) -> dict[str, float | None]:
    """Accuracy, mean margin, log-ratios, cross-entropy increase and entropy, by the names in `schemas.held_out`.

    `pairs` has the columns of `EvaluationPair` and the policy's entropies, summed over each completion. A figure is
    None where it has no pair, or is not finite. Of unpaired data accuracy is the ranking of good above bad ones, and
    margin the difference of their mean log-ratios.
    """
    summary = evaluation_summary(pairs)
    ranked = {name: summary[name] for name in (h.ACCURACY.name, h.MARGIN.name)}
    if not summary["pairs"] and "unpaired" in summary:
        ranked = _of_unpaired(summary["unpaired"])
    tokens = pl.col("chosen_len").sum() + pl.col("rejected_len").sum()
    by_token = pairs.select(
        _logratio("chosen").alias(h.CHOSEN_LOGRATIO.name),
        _logratio("rejected").alias(h.REJECTED_LOGRATIO.name),
        cross_entropy_increase().alias(h.CROSS_ENTROPY_INCREASE.name),
        (pl.sum_horizontal(POLICY_ENTROPY).sum() / tokens).alias(h.ENTROPY.name),
    )
    return ranked | finite(by_token.row(0, named=True))


def _logratio(side: Side) -> pl.Expr:
    return pl.col(f"{side}_logratios").sum() / pl.col(f"{side}_len").sum()


def _of_unpaired(figures: dict[str, Any]) -> dict[str, float | None]:
    chosen, rejected = figures["chosen_logratios"], figures["rejected_logratios"]
    margin = None if chosen is None or rejected is None else chosen - rejected
    return {h.ACCURACY.name: figures["ranking"], h.MARGIN.name: margin}
