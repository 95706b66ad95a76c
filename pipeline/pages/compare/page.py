"""One self-contained HTML page about a comparison: the decision, the standings, two kinds of charts, and the cost."""

from __future__ import annotations

from typing import Any

from scoreonce.pipeline.evaluation.standings import Standing
from scoreonce.pipeline.pages import kit
from scoreonce.pipeline.pages.charts import color, interval_strip, strip_axis, svg
from scoreonce.pipeline.pages.compare.charts import against_drift, by_setting
from scoreonce.pipeline.pages.compare.data import Comparison, Trial, mean, of_candidate
from scoreonce.pipeline.pages.downloads import as_csv, of_charts
from scoreonce.pipeline.pages.numbers import size, upper_first


def render(data: Comparison) -> str:
    """The page, as HTML."""
    domain = _domain(data)
    charts = [*against_drift(data), *by_setting(data)]
    return (
        kit.environment()
        .get_template("compare/compare.html.jinja")
        .render(
            data=data,
            title="scoreonce compare",
            headline=_headline(data),
            strip_axis=strip_axis(domain, ".0%" if data.measure.share else ".3~g"),
            rows=_rows(data, domain),
            charts=charts,
            downloads=[
                as_csv("standings.csv", [_standing(data, row) for row in data.standings.rows]),
                as_csv("trainings.csv", [_training(data, trial) for trial in data.trials]),
                of_charts("charts.json", charts),
            ],
            specs={chart.name: chart.spec for chart in charts},
            failed=[trial for trial in data.trials if trial.failure],
            size=size,
            upper_first=upper_first,
            seconds=sum(trial.seconds for trial in data.trials),
            svg=svg,
            style=kit.style("charts.css"),
            **kit.charts_script(),
        )
    )


def _standing(data: Comparison, row: Standing) -> dict[str, Any]:
    ends = {"accuracy": row.accuracy.mean, "accuracy_low": row.accuracy.low, "accuracy_high": row.accuracy.high}
    grade, title = row.grade, data.measure.column
    leading = {title: grade.mean, f"{title}_low": grade.low, f"{title}_high": grade.high} if grade else {}
    gap = row.behind
    behind = {"behind": gap.mean, "behind_low": gap.low, "behind_high": gap.high} if gap else {}
    named = {"candidate": row.name, "tied": row.tied, "seeds": row.seeds}
    return {**named, **leading, **ends, **behind, **_cost(data, row.name), **data.settings[row.name]}


def _training(data: Comparison, trial: Trial) -> dict[str, Any]:
    named = {"label": trial.label, "candidate": trial.candidate, "seed": trial.seed, "seconds": trial.seconds}
    figures = {name: value for name, value in trial.figures.items() if isinstance(value, (int, float))}
    graded = data.measure.grades.get(trial.label)
    leading = {data.measure.column: graded.mean} if graded else {}
    return {**named, "peak_memory": trial.memory, "failure": trial.failure, **leading, **figures}


def _cost(data: Comparison, candidate: str) -> dict[str, Any]:
    """Seconds of a candidate's seeds together, and the highest of their peaks of memory."""
    done = of_candidate(data.trials, candidate)
    memory = max((trial.memory for trial in done if trial.memory is not None), default=None)
    return {"seconds": sum(trial.seconds for trial in done), "peak_memory": memory}


def _headline(data: Comparison) -> str:
    if data.decision.recommended is None:
        return "The data cannot tell which to take"
    tied = sum(row.tied for row in data.standings.rows)
    if len(data.standings.rows) == 1:
        return f"{data.decision.recommended} is the only candidate"
    return f"Take {data.decision.recommended}" + (f", one of {tied} that are tied" if tied > 1 else "")


def _domain(data: Comparison) -> tuple[float, float]:
    """Ends of the axis of the strips."""
    level = [data.measure.of.mean] if data.measure.of else []
    ends = [*level, *(end for row in data.standings.rows for end in (row.leads.low, row.leads.high))]
    room = 0.04 * (max(ends) - min(ends)) or 0.01
    return min(ends) - room, max(ends) + room


def _rows(data: Comparison, domain: tuple[float, float]) -> list[dict[str, Any]]:
    return [_row(data, row, domain) for row in data.standings.rows]


def _row(data: Comparison, row: Standing, domain: tuple[float, float]) -> dict[str, Any]:
    level = data.measure.of.mean if data.measure.of else None
    paint = color(data.methods.index(str(data.settings[row.name]["train.method"])))
    grades = [(data.grade(trial), f"seed {trial.seed}") for trial in of_candidate(data.trials, row.name)]
    seeds = [(grade, words) for grade, words in grades if grade is not None]
    return {
        "standing": row,
        "color": paint,
        "strip": interval_strip(domain, (row.leads.low, row.leads.mean, row.leads.high), paint, seeds, level),
        "margin": mean(data.trials, row.name, "margin"),
        "drift": mean(data.trials, row.name, "cross_entropy_increase"),
        **_cost(data, row.name),
    }
