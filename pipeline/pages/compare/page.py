"""One self-contained HTML page about a comparison: the decision, the standings, two kinds of charts, and the cost."""

from __future__ import annotations

from typing import Any

from scoreonce.pipeline.evaluation.standings import Standing
from scoreonce.pipeline.pages import kit
from scoreonce.pipeline.pages.charts import color, interval_strip, strip_axis, svg
from scoreonce.pipeline.pages.compare.charts import against_drift, by_setting
from scoreonce.pipeline.pages.compare.data import Comparison, Trial, mean, of_candidate
from scoreonce.pipeline.pages.downloads import as_csv, of_charts


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
            strip_axis=strip_axis(domain, ".0%"),
            rows=_rows(data, domain),
            charts=charts,
            downloads=[
                as_csv("standings.csv", [_standing(data, row) for row in data.standings.rows]),
                as_csv("trainings.csv", [_training(trial) for trial in data.trials]),
                of_charts("charts.json", charts),
            ],
            specs={chart.name: chart.spec for chart in charts},
            failed=[trial for trial in data.trials if trial.failure],
            seconds=sum(trial.seconds for trial in data.trials),
            svg=svg,
            style=kit.style("charts.css"),
            **kit.charts_script(),
        )
    )


def _standing(data: Comparison, row: Standing) -> dict[str, Any]:
    ends = {"accuracy": row.accuracy.mean, "accuracy_low": row.accuracy.low, "accuracy_high": row.accuracy.high}
    gap = row.behind
    behind = {"behind": gap.mean, "behind_low": gap.low, "behind_high": gap.high} if gap else {}
    return {"candidate": row.name, "tied": row.tied, "seeds": row.seeds, **ends, **behind, **data.settings[row.name]}


def _training(trial: Trial) -> dict[str, Any]:
    named = {"label": trial.label, "candidate": trial.candidate, "seed": trial.seed, "seconds": trial.seconds}
    figures = {name: value for name, value in trial.figures.items() if isinstance(value, (int, float))}
    return {**named, "failure": trial.failure, **figures}


def _headline(data: Comparison) -> str:
    if data.decision.recommended is None:
        return "The data cannot tell which to take"
    tied = sum(row.tied for row in data.standings.rows)
    if len(data.standings.rows) == 1:
        return f"{data.decision.recommended} is the only candidate"
    return f"Take {data.decision.recommended}" + (f", one of {tied} that are tied" if tied > 1 else "")


def _domain(data: Comparison) -> tuple[float, float]:
    """Ends of the axis of the strips."""
    ends = [0.5, *(end for row in data.standings.rows for end in (row.accuracy.low, row.accuracy.high))]
    room = 0.04 * (max(ends) - min(ends)) or 0.01
    return min(ends) - room, max(ends) + room


def _rows(data: Comparison, domain: tuple[float, float]) -> list[dict[str, Any]]:
    return [
        {
            "standing": row,
            "color": color(data.methods.index(str(data.settings[row.name]["train.method"]))),
            "strip": interval_strip(
                domain,
                (row.accuracy.low, row.accuracy.mean, row.accuracy.high),
                color(data.methods.index(str(data.settings[row.name]["train.method"]))),
                [
                    (float(trial.figures["accuracy"]), f"seed {trial.seed}")
                    for trial in of_candidate(data.trials, row.name)
                ],
            ),
            "margin": mean(data.trials, row.name, "margin"),
            "drift": mean(data.trials, row.name, "cross_entropy_increase"),
            "seconds": sum(trial.seconds for trial in of_candidate(data.trials, row.name)),
        }
        for row in data.standings.rows
    ]
