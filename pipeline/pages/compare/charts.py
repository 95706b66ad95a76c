"""The charts of a comparison: what ranks, accuracy and margin against drift, and what ranks by each varied setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from scoreonce.pipeline.evaluation.intervals import CHANCE
from scoreonce.pipeline.pages.charts import ROWS, Chart, color, specification, values
from scoreonce.pipeline.pages.compare.data import Comparison
from scoreonce.pipeline.pages.numbers import is_number, upper_first
from scoreonce.pipeline.pages.scales import flattened, spread


@dataclass(frozen=True)
class Figure:
    """What is drawn: its name among the figures, that of its chart, title of its axis, and how numbers are shown."""

    name: str
    short: str
    title: str
    format: str
    exact: str

    @property
    def axis(self) -> alt.Axis:
        """Its axis."""
        return alt.Axis(format=self.format, tickCount=5)


ACCURACY = Figure("accuracy", "accuracy", "held-out accuracy", ".0%", ".1%")
MARGIN = Figure("margin", "margin", "held-out margin, nats", ".3~g", ".3f")


def _leading(data: Comparison) -> Figure:
    """What the candidates are ranked by."""
    if not data.is_graded:
        return ACCURACY
    title, numbers = data.measure.title, (".0%", ".1%") if data.measure.share else (".3~g", ".3f")
    return Figure("grade", title, title, *numbers)


def against_drift(data: Comparison) -> list[Chart]:
    """Every training against what its policy moved from the reference: what it is ranked by, accuracy and margin.

    At its end and, where it was evaluated on the way, along it.
    """
    return [_against_drift(data, figure) for figure in dict.fromkeys((_leading(data), ACCURACY, MARGIN))]


def _against_drift(data: Comparison, figure: Figure) -> Chart:
    rows, along = _rows(data), [] if figure.name == "grade" else _along(data)
    drifts, heights = ([row[key] for row in rows if is_number(row[key])] for key in ("drift", figure.name))
    base = alt.Chart(ROWS)
    x = alt.X(
        "drift:Q",
        title="drift from the reference, nats per held-out token",
        axis=alt.Axis(grid=False, tickCount=6),
        scale=spread(drifts),
    )
    y = alt.Y(f"{figure.name}:Q", title=figure.title, axis=figure.axis, scale=spread(heights))
    shown = [
        alt.Tooltip(f"{figure.name}:Q", title=figure.short, format=figure.exact),
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
    of = data.measure.of
    level = CHANCE if figure is ACCURACY else None if of is None else of.mean
    layers = [] if figure is MARGIN or level is None else [_level(heights, level)]
    return Chart(
        f"{figure.name}-drift",
        f"{upper_first(figure.short)} against drift",
        caption,
        specification(alt.layer(*layers, *([lines, steps] if along else []), points), rows, height=300),
        legend=_legend(data.methods),
    )


def by_setting(data: Comparison) -> list[Chart]:
    """For each setting with several values: what ranks each training, and the best value of each method as a line."""
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
    figure = _leading(data)
    y = alt.Y(f"{figure.name}:Q", title=figure.title, axis=figure.axis, scale=alt.Scale(zero=False, padding=8))
    base = alt.Chart(ROWS)
    tips = [
        alt.Tooltip("label:N", title="training"),
        alt.Tooltip(f"{figure.name}:Q", title=figure.short, format=figure.exact),
    ]
    layers = alt.layer(
        base.mark_point(size=45, opacity=0.55).encode(x=x, y=y, color=_paint(data.methods), tooltip=tips),
        base.transform_aggregate(mean=f"mean({figure.name})", groupby=["candidate", "method", "value"])
        .transform_aggregate(**{figure.name: "max(mean)"}, groupby=["method", "value"])
        .mark_line(strokeWidth=1.75)
        .encode(x=x, y=y, color=_paint(data.methods)),
    )
    caption = "Every training; the line goes through the best candidate of each method at that value."
    heading = f"{upper_first(figure.short)} by {title}"
    return Chart(f"by-{name}", heading, caption, specification(layers, rows, height=200), legend=_legend(data.methods))


def _rows(data: Comparison) -> list[dict[str, Any]]:
    tied = {row.name for row in data.standings.rows if row.tied}
    return [
        {
            "label": trial.label,
            "candidate": trial.candidate,
            "method": str(data.settings[trial.candidate]["train.method"]),
            **({"grade": data.grade(trial)} if data.is_graded else {}),
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


def _level(heights: Sequence[float], level: float) -> alt.Chart:
    """A line at chance, or at the reference, where some training is no higher."""
    data = alt.Data(values=[{"at": level}] if any(height <= level for height in heights) else [])
    return alt.Chart(data).mark_rule(color="var(--ink-3)", strokeDash=[4, 3]).encode(y="at:Q")
