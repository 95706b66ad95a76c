"""The facts of a verdict from tables: held-out pairs, logged steps, judgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from scoreonce.pipeline.evaluation.held_out import win_score
from scoreonce.pipeline.evaluation.intervals import Interval, difference, mean_interval, wilson
from scoreonce.pipeline.evaluation.summary import length_strata
from scoreonce.pipeline.verdict.facts import Ches, Driver, HeldOut, Labels, Length
from scoreonce.schemas import held_out as h
from scoreonce.schemas.metrics import BETA_MIN, GRAD_NORM, LOSS, STEP

LEAST_PAIRS = 20  # for the two halves of the pairs by CHES
NAMED = 3
CUT = 0.95  # quantile of the training pairs' CHES


def share_of(part: float, count: int) -> Interval:
    """A share of `count` with Wilson's interval."""
    low, high = wilson(pl.lit(part), pl.lit(count))
    return Interval(part, *pl.select(low=low, high=high).row(0))


def last_tenth(steps: int) -> int:
    """How many of the last steps are the last tenth: at least one."""
    return max(1, steps // 10)


def held_out_facts(
    pairs: pl.DataFrame,
    figures: Mapping[str, Any],
    *,
    training_ches: pl.DataFrame | None = None,
    ches: pl.DataFrame | None = None,
) -> HeldOut:
    """The facts of a table of `EvaluationPair` and its `evaluation_summary`.

    `ches` has pair_id and ref_ln_ches of held-out pairs, `training_ches` also row, of training pairs; None without.
    """
    moved = pl.coalesce("margin", "chosen_logratios", "rejected_logratios")
    finite = pairs.filter(moved.is_finite())
    ranked = figures["accuracy"] is not None
    chosen = finite.filter(pl.col("chosen_len") > 0).drop_nulls("chosen_logratios")
    per_token = (chosen["chosen_logratios"] / chosen["chosen_len"]).to_list()
    total, tokens = chosen.select(pl.col("chosen_logratios").sum(), pl.col("chosen_len").sum()).row(0)
    return HeldOut(
        pairs=figures["pairs"],
        accuracy=_rate(figures, "accuracy") if ranked else None,
        moved=_number(finite.select(moved.abs().median()).item()),
        chosen_per_token=total / tokens if tokens else None,
        chosen=Interval(*mean_interval(per_token)) if len(per_token) > 1 else None,
        not_finite=figures["not_finite"],
        length=_length(finite) if ranked else None,
        ches=None if ches is None or training_ches is None else _ches(chosen, ches, training_ches),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _rate(figures: Mapping[str, Any], name: str) -> Interval:
    return Interval(figures[name], figures[f"{name}_low"], figures[f"{name}_high"])


def _length(pairs: pl.DataFrame) -> Length | None:
    """Accuracy minus the length-controlled one: (p - 1/2) (a - b), p the share of the stratum with accuracy a."""
    scored = pairs.filter(pl.col("margin").is_not_null()).with_columns(
        accuracy=win_score(pl.col("margin"), pl.lit(0.0))
    )
    (longer, longer_ends, count), (shorter, shorter_ends, _) = length_strata()
    figures = (count / pl.len(), longer, *longer_ends, shorter, *shorter_ends)
    p, a, a_low, a_high, b, b_low, b_high = scored.select(each.alias(str(i)) for i, each in enumerate(figures)).row(0)
    if a is None or b is None:
        return None
    gap = difference(Interval(a, a_low, a_high), Interval(b, b_low, b_high))
    ends = sorted(((p - 0.5) * gap.low, (p - 0.5) * gap.high))
    return Length((a + b) / 2, Interval((p - 0.5) * gap.mean, *ends))


def _ches(chosen: pl.DataFrame, scores: pl.DataFrame, training: pl.DataFrame) -> Ches | None:
    known = chosen.join(scores.select("pair_id", "ref_ln_ches"), on="pair_id").drop_nulls("ref_ln_ches")
    ranked = training.drop_nulls("ref_ln_ches").sort("ref_ln_ches", "row", descending=[True, False])
    cut = ranked["ref_ln_ches"].quantile(CUT, "linear")
    if known.height < LEAST_PAIRS or cut is None:
        return None
    median, ratio = known["ref_ln_ches"].median(), pl.col("chosen_logratios") / pl.col("chosen_len")
    upper, lower = (
        Interval(*mean_interval(known.filter(side).select(ratio).to_series().to_list()))
        for side in (pl.col("ref_ln_ches") > median, pl.col("ref_ln_ches") <= median)
    )
    drivers = ranked.head(NAMED).select("row", "pair_id", "ref_ln_ches").iter_rows()
    return Ches(difference(upper, lower), tuple(Driver(*driver) for driver in drivers), float(cut))


def row_facts(row: Mapping[str, Any], *, paired: bool) -> HeldOut:
    """The facts of one evaluation while training, a row of `HeldOutStep`; `paired`: all its rows have both sides.

    Of others the accuracy is no share of pairs.
    """
    pairs, accuracy = row[h.PAIRS.name], row[h.ACCURACY.name]
    return HeldOut(
        pairs=pairs if paired else 0,
        accuracy=share_of(accuracy, pairs) if paired and accuracy is not None else None,
        chosen_per_token=row[h.CHOSEN_LOGRATIO.name],
    )


def step_facts(steps: pl.LazyFrame, count: int) -> tuple[float | None, Interval | None]:
    """Median |margin| in nats, and accuracy, of the pairs of the last tenth of `count` steps of a step log.

    None without margins, and where the only step is the first, whose margins are those of the start.
    """
    late = steps.filter(pl.col("step") > max(count - last_tenth(count), 1))
    margins = late.select("margin").collect(engine="streaming")["margin"].drop_nulls().drop_nans()
    if margins.is_empty():
        return None, None
    score = margins.to_frame().select(win_score(pl.col("margin"), pl.lit(0.0)).mean()).item()
    return _number(margins.abs().median()), share_of(score, margins.len())


def first_not_finite(metrics: Sequence[Mapping[str, Any]]) -> int | None:
    """The first step whose loss or gradient norm is no finite number: training writes null for one."""
    for line in metrics:
        for name in (LOSS, GRAD_NORM):
            if name in line and not (isinstance(line[name], int | float) and abs(line[name]) < float("inf")):
                return int(line[STEP])
    return None


def at_floor(metrics: Sequence[Mapping[str, Any]], floor: float) -> Interval | None:
    """The share of the steps whose smallest beta is `floor`; None without beta."""
    betas = [line[BETA_MIN] for line in metrics if line.get(BETA_MIN) is not None]
    return share_of(sum(beta <= floor * (1 + 1e-6) for beta in betas) / len(betas), len(betas)) if betas else None


def label_facts(judgements: Mapping[str, Any] | None) -> Labels | None:
    """The facts of the audit's `judgements`; None where nothing was judged repeatedly."""
    if not judgements:
        return None
    return Labels(judgements["pairs"], _rate(judgements, "flip_rate"), judgements["suggested_label_smoothing"])
