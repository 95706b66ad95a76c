"""The report's charts.

Run i is drawn in the colour `--run-i`. Data are wide, one row per group of steps and one column per run (`r0`, `r1`,
...): smaller than long, and one tooltip shows all runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl
import polars.selectors as cs

from scoreonce.pipeline.pages.charts import (
    PALETTE,
    ROWS,
    TEXT,
    Chart,
    color,
    interval_strip,
    specification,
    strip_axis,
    values,
)
from scoreonce.pipeline.pages.numbers import is_number, upper_first
from scoreonce.pipeline.pages.report.data import QUANTILES, RunRecord
from scoreonce.pipeline.pages.scales import FLAT, flattened, groups, spread
from scoreonce.schemas.metrics import (
    ACCURACIES,
    BETA_MAX,
    BETA_MEAN,
    BETA_MIN,
    GRAD_NORM,
    KEPT,
    LEARNING_RATE,
    LOSS,
    MARGINS,
    REWARDS_CHOSEN,
    REWARDS_REJECTED,
)
from scoreonce.schemas.samples import REFERENCE

MAX_POINTS = 160
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])


@dataclass(frozen=True)
class Curve:
    """A training metric worth a chart; `low` and `high` name the metrics of its band.

    `smooth` draws a centred running mean of a sixteenth of the points over the pale values themselves.
    """

    metric: str
    title: str
    caption: str
    low: str | None = None
    high: str | None = None
    format: str = ".4~g"
    smooth: bool = True
    spikes: bool = False  # drawn on a logarithmic axis where some step is far above the others


CURVES = (
    Curve(LOSS, "Loss", "Objectives have units of their own; compare a run with itself."),
    Curve(MARGINS, "Reward margin", "β times (chosen − rejected log-ratio), mean of the step’s pairs."),
    Curve(
        ACCURACIES,
        "Training accuracy",
        "Share of the step’s pairs whose chosen reward is higher.",
        format=".1~%",
    ),
    Curve(REWARDS_CHOSEN, "Chosen reward", "Below zero, the chosen side is less likely than under the reference."),
    Curve(REWARDS_REJECTED, "Rejected reward", "β times the log-ratio of the rejected completions."),
    Curve(GRAD_NORM, "Gradient norm", "Before clipping.", spikes=True),
    Curve(LEARNING_RATE, "Learning rate", "As the scheduler set it.", format=".2~g", smooth=False),
    Curve(
        BETA_MEAN,
        "β",
        "Mean of the step’s pairs; the band spans their minimum and maximum.",
        BETA_MIN,
        BETA_MAX,
        smooth=False,
    ),
    Curve(KEPT, "Kept share", "Pairs of the step whose weight is not zero.", format=".1~%"),
)


def dash(index: int) -> int:
    """Number of the line pattern, and of the legend's mark, that tells runs of one colour apart."""
    return index // PALETTE % len(_DASHES)


def training_curves(runs: Sequence[RunRecord]) -> list[Chart]:
    """For each metric that some run has a chart of all runs; β and kept share only where they ever vary.

    Runs that would flatten the others have a chart of their own, after it.
    """
    return [chart for curve in CURVES if _worth_drawing(curve, runs) for chart in _charts_of(curve, runs)]


def _worth_drawing(curve: Curve, runs: Sequence[RunRecord]) -> bool:
    metrics = [run.metrics[curve.metric] for run in runs if curve.metric in run.metrics.columns]
    known = {value for series in metrics for value in series.drop_nulls().to_list() if math.isfinite(value)}
    return len(known) > (1 if curve.metric in (BETA_MEAN, KEPT) else 0)


def _charts_of(curve: Curve, runs: Sequence[RunRecord]) -> list[Chart]:
    aggregates = {"": (curve.metric, pl.Expr.mean)}
    if curve.low and curve.high:
        aggregates |= {"_low": (curve.low, pl.Expr.min), "_high": (curve.high, pl.Expr.max)}
    table = _grouped(runs, aggregates)
    known = known_ends(table, runs)
    spikes = curve.spikes and _spikes(table, list(known))
    parts = [sorted(known)] if spikes else groups(known)
    return [_curve(curve, runs, table, part, number, spikes=spikes) for number, part in enumerate(parts)]


def known_ends(table: pl.DataFrame, runs: Sequence[RunRecord]) -> dict[int, tuple[float, float]]:
    """The smallest and largest value of each run in a table of columns `r<i>`; runs without a value are left out."""
    columns = {i: table[f"r{i}"].drop_nulls() for i in range(len(runs)) if f"r{i}" in table.columns}
    finite = {i: column.filter(column.is_finite()) for i, column in columns.items()}
    return {i: (float(column.min()), float(column.max())) for i, column in finite.items() if len(column)}  # type: ignore[arg-type]


def titled(title: str, caption: str, runs: Sequence[RunRecord], part: Sequence[int], number: int) -> tuple[str, str]:
    """Title and caption of a chart; of one after the first, with the runs that would flatten those in the first."""
    if not number:
        return title, caption
    names = ", ".join(runs[i].label for i in part)
    return f"{title} of {names}", f"On a scale of {'its' if len(part) == 1 else 'their'} own. {caption}"


def _spikes(table: pl.DataFrame, drawn: Sequence[int]) -> bool:
    """Whether some step is far above the others, where all are positive, so that a logarithmic axis shows more."""
    values = pl.concat([table[f"r{i}"].drop_nulls().alias("value") for i in drawn]) if drawn else pl.Series([1.0])
    return float(values.min()) > 0 and float(values.max()) > FLAT * float(values.median())  # type: ignore[arg-type]


def _curve(
    curve: Curve, runs: Sequence[RunRecord], table: pl.DataFrame, drawn: Sequence[int], number: int, *, spikes: bool
) -> Chart:
    table = table.select("step", cs.matches(f"^r({'|'.join(map(str, drawn))})(_|$)"))
    scale = alt.Scale(type="log", nice=False) if spikes else alt.Scale(zero=False)
    base = alt.Chart(ROWS)
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1, tickCount=5, grid=False))
    axis = alt.Axis(format=curve.format, tickCount=4)
    bands = [
        base.mark_area(opacity=0.14, color=color(i)).encode(x=x, y=f"r{i}_low:Q", y2=f"r{i}_high:Q")
        for i in drawn
        if f"r{i}_low" in table.columns
    ]
    reach = table.height // 32 if curve.smooth else 0
    raw = [line(base, x, axis, f"r{i}", i, scale, opacity=0.22) for i in drawn] if reach else []
    smoothed = base.transform_window(frame=[-reach, reach], **{f"s{i}": f"mean(r{i})" for i in drawn})
    lines = [line(smoothed, x, axis, f"s{i}", i, scale) for i in drawn]
    tips = [alt.Tooltip(f"r{i}:Q", title=runs[i].label, format=curve.format) for i in drawn]
    name = f"{_name(curve.metric)}{f'-{number}' if number else ''}"
    layers = alt.layer(*bands, *raw, *lines, hover(base, x, tips, f"hover_{name.replace('-', '_')}"))
    title, caption = titled(curve.title, curve.caption, runs, drawn, number)
    caption += " The axis is logarithmic." if spikes else ""
    return Chart(name, title, caption, specification(layers, rounded(table), height=170))


def line(
    base: alt.Chart, x: alt.X, axis: alt.Axis, column: str, index: int, scale: alt.Scale, opacity: float = 1
) -> alt.Chart:
    """The line of a column in the colour and pattern of run `index`."""
    y = alt.Y(f"{column}:Q", title=None, axis=axis, scale=scale)
    mark = base.mark_line(color=color(index), strokeWidth=1.75, strokeDash=_DASHES[dash(index)], opacity=opacity)
    return mark.encode(x=x, y=y)


def hover(base: alt.Chart, x: alt.X, tips: list[alt.Tooltip], name: str) -> alt.Chart:
    """An upright line under the pointer that lists the values of all runs at that step."""
    pointed = alt.selection_point(name=name, on="pointerover", nearest=False, empty=False, clear="pointerout")
    return (
        base.mark_rule(strokeWidth=5, color="var(--ink-3)")
        .encode(
            x=x,
            opacity=alt.condition(pointed, alt.value(0.35), alt.value(0)),
            tooltip=[alt.Tooltip("step:Q", format=","), *tips],
        )
        .add_params(pointed)
    )


def _grouped(runs: Sequence[RunRecord], aggregates: Mapping[str, tuple[str, Any]]) -> pl.DataFrame:
    """At most MAX_POINTS groups of steps, alike for all runs; columns `step` and `r<i><suffix>`."""
    last = max((run.metrics["step"].to_list()[-1] for run in runs if run.trained), default=0)
    width = max(1, math.ceil(last / MAX_POINTS))
    whole = pl.DataFrame(schema={"step": pl.Float64})
    for index, run in enumerate(runs):
        present = {suffix: item for suffix, item in aggregates.items() if item[0] in run.metrics.columns}
        if present:
            grouped = run.metrics.group_by(((pl.col("step") / width).ceil() * width).alias("step")).agg(
                reduce(pl.col(name).fill_nan(None)).alias(f"r{index}{suffix}")
                for suffix, (name, reduce) in present.items()
            )
            whole = whole.join(grouped, on="step", how="full", coalesce=True)
    return whole.sort("step")


def bands_of(runs: Sequence[RunRecord], column: str) -> list[tuple[int, Chart]]:
    """One chart per run of a quantity's quantiles over the steps, with the index of its run.

    `column` is `margin` or `beta`. A run in which it is constant has none. All are on one scale, but for runs that
    would flatten the others.
    """
    names = [f"{column}_p{q * 100:.0f}" for q in QUANTILES]
    known = [
        (i, run.bands.select("step", *names).drop_nulls())
        for i, run in enumerate(runs)
        if names[0] in run.bands.columns
    ]
    ends = {i: _ends(table, names) for i, table in known if table.height}
    drawn = [(i, table) for i, table in known if i in ends and ends[i][0] < ends[i][1]]
    parts = groups({i: ends[i] for i, _ in drawn})
    domains = {i: (min(ends[j][0] for j in part), max(ends[j][1] for j in part)) for part in parts for i in part}
    own = {i for part in parts[1:] for i in part}
    return [(i, _band(i, runs[i].label, column, names, table, domains[i], own=i in own)) for i, table in drawn]


def _ends(table: pl.DataFrame, names: list[str]) -> tuple[float, float]:
    low, high = table.select(pl.col(names[0]).min(), pl.col(names[-1]).max()).row(0)
    return low, high


def _band(
    index: int,
    label: str,
    column: str,
    names: list[str],
    table: pl.DataFrame,
    domain: tuple[float, float],
    *,
    own: bool,
) -> Chart:
    base = alt.Chart(ROWS)
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1, tickCount=5, grid=False))
    scale = alt.Scale(domain=list(domain), zero=False)
    y = {name: alt.Y(f"{name}:Q", title=None, axis=alt.Axis(tickCount=4), scale=scale) for name in names}
    tips = [alt.Tooltip(f"{name}:Q", title=f"{name.rpartition('_p')[2]}%", format=".3~g") for name in names]
    layers = alt.layer(
        base.mark_area(opacity=0.16, color=color(index)).encode(x=x, y=y[names[0]], y2=names[4]),
        base.mark_area(opacity=0.26, color=color(index)).encode(x=x, y=y[names[1]], y2=names[3]),
        base.mark_line(color=color(index), strokeWidth=1.75).encode(x=x, y=y[names[2]]),
        hover(base, x, tips, f"hover_{column}_{index}"),
    )
    caption = "On a scale of its own." if own else ""
    return Chart(f"{column}-{index}", label, caption, specification(layers, rounded(table), height=150))


def reward_against_kl(
    demo: Sequence[Mapping[str, Any]],
    colors: Mapping[str, str],
    best_of_n: Sequence[Mapping[str, Any]] = (),
    *,
    name: str = "reward-kl",
    reward: str = "true reward",
    lines: Sequence[Sequence[str]] = (),
) -> Chart:
    """True reward of each policy's samples, with its interval, against the policy's KL from the reference.

    With the curve of the best of n completions of the reference, at the most that their KL can be. `lines` names the
    labels that a line leads through, in its order: a policy that is mixed with the reference more and more.
    """
    figures = {"kl": "kl_mean", "low": "true_reward_low", "high": "true_reward_high", "mean": "true_reward_mean"}
    rows = [{"label": entry["label"], **{name: entry.get(key) for name, key in figures.items()}} for entry in demo]
    labels = [str(entry["label"]) for entry in demo]
    scale = alt.Scale(domain=labels, range=[colors.get(label, "var(--ink-2)") for label in labels])
    base = alt.Chart(ROWS)
    kls, means = ([row[key] for row in rows if is_number(row[key])] for key in ("kl", "mean"))
    x = alt.X(
        "kl:Q",
        title="KL from the reference, nats per sample",
        axis=alt.Axis(grid=False, tickCount=6),
        scale=spread(kls),
    )
    paint = alt.Color("label:N", scale=scale, legend=None)
    titles = {"mean": reward, "low": "low", "high": "high", "kl": "KL"}
    tips = [
        alt.Tooltip("label:N", title="run"),
        *(alt.Tooltip(f"{name}:Q", title=title, format=".3f") for name, title in titles.items()),
    ]
    span = alt.Y("low:Q", title=reward, scale=spread(means))
    layers: list[alt.Chart] = [
        base.mark_rule(strokeWidth=2).encode(x=x, y=span, y2="high:Q", color=paint),
        base.mark_point(filled=True, size=95, opacity=1).encode(x=x, y="mean:Q", color=paint, tooltip=tips),
    ]
    caption = "Higher and further left is better; bars span 95% intervals."
    if along := _along_training(demo, figures, paint):
        layers = [*along, *layers]
        caption += " Solid lines: from the reference along training; small dots are checkpoints."
    if best_of_n:
        layers = [*_best_of_n(best_of_n, reward), *layers]
        caption += (
            f" Dashed: the best of 1 to {best_of_n[-1]['n']} completions of the reference, at log n − (n − 1)/n nats."
        )
    if lines:
        layers = [*_paths(lines, rows, colors), *layers]
        caption += " Solid lines: a policy mixed with the reference in decoding, from the reference through the policy."
    if flattened(kls) or flattened(means):
        caption += " One is far from the others, so the axis is logarithmic on both sides of zero."
    title = f"{upper_first(reward)} against KL"
    return Chart(name, title, caption, specification(alt.layer(*layers), rows, height=300))


def _paths(
    lines: Sequence[Sequence[str]], rows: Sequence[Mapping[str, Any]], colors: Mapping[str, str]
) -> list[alt.Chart]:
    places = {row["label"]: row for row in rows}
    return [
        alt.Chart(values([{**places[label], "order": place} for place, label in enumerate(line)]))
        .mark_line(strokeWidth=1.5, opacity=0.6, color=colors.get(line[-1], "var(--ink-2)"))
        .encode(x="kl:Q", y="mean:Q", order="order:Q")
        for line in lines
    ]


def _best_of_n(points: Sequence[Mapping[str, Any]], reward: str) -> list[alt.Chart]:
    rows = [{"n": each["n"], "kl": each["kl_bound"], "mean": each["reward"]} for each in points]
    base = alt.Chart(values(rows)).encode(x="kl:Q", y="mean:Q")
    tips = [alt.Tooltip("n:Q", title="best of"), alt.Tooltip("mean:Q", title=reward, format=".3f")]
    return [
        base.mark_line(strokeDash=[4, 3], strokeWidth=1.5, color="var(--ink-3)"),
        base.mark_point(filled=True, size=30, opacity=1, color="var(--ink-3)").encode(tooltip=tips),
        base.mark_text(align="left", dx=5, dy=9, fontSize=TEXT, color="var(--ink-2)").encode(text="n:Q"),
    ]


def _along_training(demo: Sequence[Mapping[str, Any]], figures: Mapping[str, str], paint: alt.Color) -> list[alt.Chart]:
    """A line for each policy with checkpoints: from the reference through them to the policy; none without any."""
    start = [entry for entry in demo if entry["label"] == REFERENCE]
    points = [
        {
            "label": entry["label"],
            "at": at,
            "step": each.get("step"),
            **{key: each.get(figures[key]) for key in figures},
        }
        for entry in demo
        if entry.get("along")
        for at, each in enumerate([*start, *entry["along"], entry])
    ]
    if not points:
        return []
    tips = [alt.Tooltip(f"{name}:Q", format=".3f") for name in figures]
    lines = alt.Chart(values(points)).mark_line(strokeWidth=1.5, opacity=0.7)
    dots = alt.Chart(values(point for point in points if point["step"] is not None))
    return [
        lines.encode(x="kl:Q", y="mean:Q", color=paint, order="at:Q"),
        dots.mark_point(filled=True, size=30, opacity=1).encode(
            x="kl:Q", y="mean:Q", color=paint, tooltip=[alt.Tooltip("label:N"), alt.Tooltip("step:Q"), *tips]
        ),
    ]


def rounded(table: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of a chart, with five digits of each number."""
    return table.with_columns(pl.col(pl.Float64).round_sig_figs(5)).to_dicts()


def _name(metric: str) -> str:
    return metric.replace("/", "_")


def accuracy_strips(runs: Sequence[RunRecord]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """An axis, and for each evaluated run, by label, its held-out accuracy with its interval; the axis holds 0.5."""
    known = {
        run.label: tuple(run.summary[key] for key in ("accuracy_low", "accuracy", "accuracy_high"))
        for run in runs
        if run.evaluated
    }
    ends = [0.5, *(end for interval in known.values() for end in interval)]
    room = 0.04 * (max(ends) - min(ends)) or 0.01
    domain = min(ends) - room, max(ends) + room
    return strip_axis(domain, ".0%"), {
        run.label: interval_strip(domain, known[run.label], color(i)) for i, run in enumerate(runs) if run.evaluated
    }
