"""Held-out figures while training: curves over the steps with the best step marked, and the table behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl

from scoreonce.pipeline.evaluation.choice import Row, best_row
from scoreonce.pipeline.pages.charts import ROWS, Chart, color, specification, values
from scoreonce.pipeline.pages.report.charts import hover, known_ends, line, rounded, titled
from scoreonce.pipeline.pages.report.data import RunRecord
from scoreonce.pipeline.pages.scales import groups
from scoreonce.schemas import held_out as h


@dataclass(frozen=True)
class Curve:
    """A figure worth a chart."""

    column: str
    title: str
    caption: str
    format: str = ".4~g"


CURVES = (
    Curve(h.LOSS.name, "Held-out loss", "The method’s own, in its units; compare a run with itself."),
    Curve(h.ACCURACY.name, "Held-out accuracy", "Share of the pairs with a positive margin, ties half.", ".1~%"),
    Curve(h.MARGIN.name, "Held-out margin", "Chosen minus rejected log-ratio, nats per completion, without β."),
    Curve(h.CHOSEN_LOGRATIO.name, "Held-out chosen log-ratio", "Nats per token; below zero, less likely than before."),
    Curve(h.REJECTED_LOGRATIO.name, "Held-out rejected log-ratio", "Nats per token."),
    Curve(h.CROSS_ENTROPY_INCREASE.name, "Held-out KL estimate", "Reference minus policy log-probs, nats per token."),
    Curve(h.ENTROPY.name, "Held-out entropy", "Of the policy’s next-token distribution, nats per token."),
)


@dataclass(frozen=True)
class Standing:
    """A run that was evaluated while it trained: its best and its last row, and whose weights its model has."""

    run: RunRecord
    metric: str
    evaluations: int
    best: Row | None
    last: Row
    policy_step: int | None  # None where it has not finished
    stopped: bool  # by patience


def held_out_standings(runs: Sequence[RunRecord]) -> list[Standing]:
    """The runs with held-out figures while training, in their order."""
    return [_standing(run) for run in runs if run.held_out.height]


def held_out_curves(runs: Sequence[RunRecord]) -> list[Chart]:
    """For each figure that some run has a chart of all runs; a diamond marks the best step of a run.

    Runs that would flatten the others have a chart of their own, after it.
    """
    best = {standing.run.label: standing.best for standing in held_out_standings(runs)}
    drawn = [i for i, run in enumerate(runs) if run.held_out.height]
    return [chart for curve in CURVES for chart in _charts_of(curve, runs, drawn, best)]


def _standing(run: RunRecord) -> Standing:
    rows, choice = run.held_out.to_dicts(), run.lineage.get("held_out") or {}
    metric = choice.get("metric") or run.settings.get("evaluate", {}).get("metric", h.LOSS.name)
    stopped = choice.get("stopped") == "patience"
    return Standing(run, metric, len(rows), best_row(rows, metric), rows[-1], choice.get("policy_step"), stopped)


def _charts_of(
    curve: Curve, runs: Sequence[RunRecord], drawn: Sequence[int], best: dict[str, Row | None]
) -> list[Chart]:
    table = pl.DataFrame(schema={"step": pl.Int64})
    for index in drawn:
        column = runs[index].held_out.select("step", pl.col(curve.column).alias(f"r{index}"))
        table = table.join(column, on="step", how="full", coalesce=True)
    parts = groups(known_ends(table, runs))
    return [_curve(curve, runs, table, part, number, best) for number, part in enumerate(parts)]


def _curve(
    curve: Curve,
    runs: Sequence[RunRecord],
    table: pl.DataFrame,
    drawn: Sequence[int],
    number: int,
    best: dict[str, Row | None],
) -> Chart:
    table = table.select("step", *(f"r{i}" for i in drawn))
    base = alt.Chart(ROWS)
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1, tickCount=5, grid=False))
    axis, scale = alt.Axis(format=curve.format, tickCount=4), alt.Scale(zero=False)
    # Runs are evaluated at steps of their own: a line goes over those of the others.
    lines = [line(base.transform_filter(f"datum.r{i} !== null"), x, axis, f"r{i}", i, scale) for i in drawn]
    tips = [alt.Tooltip(f"r{i}:Q", title=runs[i].label, format=curve.format) for i in drawn]
    marks = [_mark(row, curve, i, x) for i in drawn if (row := best[runs[i].label]) and row[curve.column] is not None]
    name = f"held_out_{curve.column}{f'_{number}' if number else ''}"
    title, caption = titled(curve.title, curve.caption, runs, drawn, number)
    layers = alt.layer(*lines, *marks, hover(base, x, tips, f"hover_{name}"))
    return Chart(name, title, caption, specification(layers, rounded(table.sort("step")), height=170))


def _mark(row: Row, curve: Curve, index: int, x: alt.X) -> alt.Chart:
    at: dict[str, Any] = {"step": row["step"], "best": row[curve.column]}
    mark = alt.Chart(values([at])).mark_point(shape="diamond", filled=True, size=90, opacity=1, color=color(index))
    return mark.encode(x=x, y=alt.Y("best:Q", title=None, scale=alt.Scale(zero=False)))
