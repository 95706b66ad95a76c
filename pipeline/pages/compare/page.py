"""One self-contained HTML page about a comparison: the decision, the standings, two kinds of charts, and the cost."""

from __future__ import annotations

from typing import Any

from scoreonce.pipeline.pages import kit
from scoreonce.pipeline.pages.charts import color, interval_strip, strip_axis, svg
from scoreonce.pipeline.pages.compare.charts import against_drift, by_setting
from scoreonce.pipeline.pages.compare.data import Comparison, mean, of_candidate


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
            specs={chart.name: chart.spec for chart in charts},
            failed=[trial for trial in data.trials if trial.failure],
            seconds=sum(trial.seconds for trial in data.trials),
            svg=svg,
            style=kit.style("charts.css"),
            **kit.charts_script(),
        )
    )


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
