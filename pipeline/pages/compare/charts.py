"""The charts of a comparison: accuracy and margin against drift, and accuracy by each varied setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from scoreonce.pipeline.evaluation.intervals import CHANCE
from scoreonce.pipeline.pages.charts import ROWS, Chart, color, specification, values
from scoreonce.pipeline.pages.compare.data import Comparison
from scoreonce.pipeline.pages.numbers import is_number
from scoreonce.pipeline.pages.scales import flattened, spread

ACCURACY = alt.Axis(format=".0%", tickCount=5)


@dataclass(frozen=True)
class Figure:
    """What is drawn against drift: its name among the figures, the title of its axis, and how numbers are shown."""

    name: str
    title: str
    format: str
    exact: str


FIGURES = (
    Figure("accuracy", "held-out accuracy", ".0%", ".1%"),
    Figure("margin", "held-out margin, nats", ".3~g", ".3f"),
)


def against_drift(data: Comparison) -> list[Chart]:
    """Every training: held-out accuracy and margin against what the policy moved from the reference, at its end and,
    where it was evaluated on the way, along it.
    """
    return [_against_drift(data, figure) for figure in FIGURES]


def _against_drift(data: Comparison, figure: Figure) -> Chart:
    rows, along = _rows(data), _along(data)
    drifts, heights = ([row[key] for row in rows if is_number(row[key])] for key in ("drift", figure.name))
    base = alt.Chart(ROWS)
    x = alt.X(
        "drift:Q",
        title="drift from the reference, nats per held-out token",
        axis=alt.Axis(grid=False, tickCount=6),
        scale=spread(drifts),
    )
    axis = alt.Axis(format=figure.format, tickCount=5)
    y = alt.Y(f"{figure.name}:Q", title=figure.title, axis=axis, scale=spread(heights))
    shown = [
        alt.Tooltip(f"{figure.name}:Q", title=figure.name, format=figure.exact),
        alt.Tooltip("drift:Q", format=".3f"),
    ]
    tips = [alt.Tooltip("label:N", title="training"), *shown]
    paint = _paint(data.methods)
    lines = (
        alt.Chart(values(along))
        .mark_line(strokeWidth=1.25, opacity=0.55)
        .encode(x=x, y=y, color=paint, detail="label:N", order="step:Q")
    )
    steps = (
        alt.Chart(values(along))
        .mark_point(size=14, filled=True, opacity=0.7)
        .encode(x=x, y=y, color=paint, tooltip=[*tips, alt.Tooltip("step:Q", format=",")])
    )
    points = base.mark_point(size=70, opacity=0.9).encode(
        x=x,
        y=y,
        color=paint,
        fill=alt.condition("datum.tied", paint, alt.value("transparent")),
        tooltip=tips,
    )
    caption = "One mark for each training, filled where its candidate is tied with the best. Higher and left is better."
    if along:
        caption += " Lines lead there, through the evaluations on the way: a sample of the held-out pairs."
    if flattened(drifts) or flattened(heights):
        caption += " One is far from the others, so the axis is logarithmic on both sides of zero."
    layers = [_chance(rows)] if figure.name == "accuracy" else []
    return Chart(
        f"{figure.name}-drift",
        f"{figure.name.capitalize()} against drift",
        caption,
        specification(alt.layer(*layers, *([lines, steps] if along else []), points), rows, height=300),
        legend=_legend(data.methods),
    )


def by_setting(data: Comparison) -> list[Chart]:
    """For each setting with several values: accuracy of each training, and the best value of each method as a line."""
    return [_by(data, key) for key in data.keys if len({str(_value(data, name, key)) for name in data.settings}) > 1]


def _by(data: Comparison, key: str) -> Chart:
    rows = [row | {"value": _value(data, row["candidate"], key)} for row in _rows(data)]
    rows = [row for row in rows if row["value"] is not None]
    numbers = all(is_number(row["value"]) for row in rows)
    spread = numbers and min(row["value"] for row in rows) > 0
    name = key.removeprefix("train.")
    title = name.replace("_", " ")
    ticks = sorted({row["value"] for row in rows}) if numbers else []
    axis = alt.Axis(grid=False, values=ticks, format=".2~g") if numbers else alt.Axis(grid=False)
    x: Any = alt.X("value:O", title=title, axis=alt.Axis(grid=False))
    if numbers:
        x = alt.X("value:Q", title=title, axis=axis, scale=alt.Scale(type="log" if spread else "linear", padding=18))
    y = alt.Y("accuracy:Q", title="held-out accuracy", axis=ACCURACY, scale=alt.Scale(zero=False, padding=8))
    base = alt.Chart(ROWS)
    tips = [alt.Tooltip("label:N", title="training"), alt.Tooltip("accuracy:Q", format=".1%")]
    layers = alt.layer(
        base.mark_point(size=45, opacity=0.55).encode(x=x, y=y, color=_paint(data.methods), tooltip=tips),
        base.transform_aggregate(mean="mean(accuracy)", groupby=["candidate", "method", "value"])
        .transform_aggregate(accuracy="max(mean)", groupby=["method", "value"])
        .mark_line(strokeWidth=1.75)
        .encode(x=x, y=y, color=_paint(data.methods)),
    )
    caption = "Every training; the line goes through the best candidate of each method at that value."
    return Chart(f"by-{name}", title, caption, specification(layers, rows, height=200), legend=_legend(data.methods))


def _rows(data: Comparison) -> list[dict[str, Any]]:
    tied = {row.name for row in data.standings.rows if row.tied}
    return [
        {
            "label": trial.label,
            "candidate": trial.candidate,
            "method": str(data.settings[trial.candidate]["train.method"]),
            "accuracy": trial.figures["accuracy"],
            "margin": trial.figures["margin"],
            "drift": trial.figures["cross_entropy_increase"],
            "tied": trial.candidate in tied,
        }
        for trial in data.trials
        if trial.failure is None and trial.candidate in data.settings
    ]


def _along(data: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "label": trial.label,
            "method": str(data.settings[trial.candidate]["train.method"]),
            "step": row["step"],
            "accuracy": row["accuracy"],
            "margin": row["margin"],
            "drift": row["cross_entropy_increase"],
        }
        for trial in data.trials
        if trial.failure is None and trial.candidate in data.settings
        for row in trial.along
    ]


def _value(data: Comparison, candidate: str, key: str) -> Any:
    return data.settings[candidate].get(key)


def _paint(methods: Sequence[str]) -> alt.Color:
    scale = alt.Scale(domain=list(methods), range=[color(index) for index in range(len(methods))])
    return alt.Color("method:N", scale=scale, legend=None)


def _legend(methods: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((method, color(index)) for index, method in enumerate(methods))


def _chance(rows: Sequence[dict[str, Any]]) -> alt.Chart:
    """A line at one half, where it is within the values."""
    inside = any(row["accuracy"] is not None and row["accuracy"] <= CHANCE for row in rows)
    data = alt.Data(values=[{"at": CHANCE}] if inside else [])
    return alt.Chart(data).mark_rule(color="var(--ink-3)", strokeDash=[4, 3]).encode(y="at:Q")
