"""The training-dynamics map of each run: a dot per pair, by the mean and the spread of its margin over its visits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from scoreonce.pipeline.pages.charts import FIGURE_WIDTH, ROWS, Chart, specification, values
from scoreonce.pipeline.pages.numbers import number, percent

REGIONS = {"learned": "var(--run-2)", "ambiguous": "var(--run-4)", "hard": "var(--run-5)"}


def dynamics_charts(maps: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """A chart per map; those without a point are left out."""
    return [_chart(f"dynamics-{index}", entry) for index, entry in enumerate(maps) if entry["points"]]


def _chart(name: str, entry: Mapping[str, Any]) -> Chart:
    means, spreads = ([point[key] for point in entry["points"]] for key in ("mean", "spread"))
    (low, high), (_, top) = _bulk(means), _bulk(spreads)
    left, right = min(0.0, low), max(0.0, high)
    domains = [left, right if right > left else left + 1.0], [0.0, top or 1.0]
    rows = [
        {"mean": mean, "spread": spread, "region": region}
        for mean, spread, region in zip(means, spreads, _regions(entry, means, spreads), strict=True)
    ]
    x = alt.X("mean:Q", title=entry["x"], axis=alt.Axis(grid=False, tickCount=5), scale=_clamped(domains[0]))
    y = alt.Y("spread:Q", title=entry["y"], axis=alt.Axis(tickCount=4), scale=_clamped(domains[1]))
    paint = alt.Color("region:N", legend=None, scale=alt.Scale(domain=[*REGIONS], range=[*REGIONS.values()]))
    layers = alt.layer(
        alt.Chart(values([{"mean": 0.0}])).mark_rule(color="var(--ink-3)", aria=False).encode(x=x),
        alt.Chart(ROWS).mark_circle(size=18, opacity=0.5, aria=False).encode(x=x, y=y, color=paint),
    )
    return Chart(
        name,
        entry["label"],
        "",
        specification(layers, rows, width=FIGURE_WIDTH, height=260),
        detail=f"{number(entry['pairs'])} pairs",
        legend=tuple((_words(entry, region), paint) for region, paint in REGIONS.items()),
    )


def _clamped(domain: list[float]) -> alt.Scale:
    """Points beyond the ends of the axis are drawn on its edge."""
    return alt.Scale(domain=domain, clamp=True, nice=False, zero=False)


def _bulk(numbers: Sequence[float]) -> tuple[float, float]:
    """Ends of the axis: those of all but the outermost hundredth on either side."""
    ordered, outer = sorted(numbers), len(numbers) // 100
    return ordered[outer], ordered[-1 - outer]


def _regions(entry: Mapping[str, Any], means: Sequence[float], spreads: Sequence[float]) -> list[str]:
    """The region of each point, such that as large a share is ambiguous as among all pairs."""
    ambiguous = round(entry["regions"]["ambiguous"] / entry["pairs"] * len(spreads))
    edge = sorted(spreads, reverse=True)[ambiguous] if ambiguous < len(spreads) else -1.0
    return [
        "ambiguous" if spread > edge else "learned" if mean > 0 else "hard"
        for mean, spread in zip(means, spreads, strict=True)
    ]


def _words(entry: Mapping[str, Any], region: str) -> str:
    count = entry["regions"][region]
    return f"{region}: {number(count)} ({percent(count / entry['pairs'])})"
