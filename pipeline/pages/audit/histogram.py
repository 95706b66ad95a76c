"""The audit page's histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import altair as alt

from scoreonce.pipeline.pages.charts import FIGURE_WIDTH, ROWS, Chart, color, specification
from scoreonce.pipeline.pages.numbers import is_number, number, span, upper_first

MOST_SERIES = 8
COLORS = {"chosen": "var(--chosen)", "rejected": "var(--rejected)"}


def histogram_charts(distributions: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """A chart for each distribution; those of one group and unit share one. Those without a value are left out."""
    drawn = [item for item in distributions if any(part["count"] for part in item["bins"])]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for item in drawn:
        groups.setdefault((item.get("group") or item["name"], item["unit"]), []).append(item)
    return [_chart(f"histogram-{index}", members[:MOST_SERIES]) for index, members in enumerate(groups.values())]


def _chart(name: str, members: list[Mapping[str, Any]]) -> Chart:
    group = members[0].get("group")
    overlaid = len(members) > 1
    legend = tuple((item["title"], COLORS.get(item["title"], color(index))) for index, item in enumerate(members))
    quantiles = [(item["title"], words) for item in members if (words := _quantiles(item))]
    caption = "; ".join(f"{title}: {words}" if group else words for title, words in quantiles)
    bins = [{"series": item["title"], **part} for item in members for part in _bins(item, titled=overlaid)]
    return Chart(
        name,
        upper_first((group or members[0]["title"]).replace("_", " ")),
        caption,
        specification(_bars(legend, overlaid=overlaid, alone=len(bins) == 1), bins, width=FIGURE_WIDTH, height=116),
        detail=members[0]["unit"],
        legend=legend if overlaid else (),
    )


def _bars(legend: Sequence[tuple[str, str]], *, overlaid: bool, alone: bool) -> alt.LayerChart:
    """Bars; over those of a single series, invisible ones of full height, so that the words of low bars show too."""
    x = alt.X(
        "low:Q",
        title=None,
        axis=alt.Axis(grid=False, tickCount=4, format=",.6~g", domainColor="var(--ink-3)"),
        # A single bin would fill the figure.
        scale=alt.Scale(zero=False, nice=False, padding=FIGURE_WIDTH / 3 if alone else 0),
    )
    labels, paints = map(list, zip(*legend, strict=True))
    bars = alt.Chart(ROWS).encode(x=x, x2="high:Q", description="words:N")
    axis = alt.Axis(tickCount=3, format=".2~g")
    drawn = bars.mark_rect(opacity=0.45 if overlaid else 0.75, aria=overlaid).encode(
        y=alt.Y("density:Q", title="share per unit", axis=axis, scale=alt.Scale(nice=False)),
        y2=alt.datum(0),
        color=alt.Color("series:N", legend=None, scale=alt.Scale(domain=labels, range=paints)),
    )
    return alt.layer(drawn) if overlaid else alt.layer(drawn, bars.mark_rect(opacity=0))


def _bins(item: Mapping[str, Any], *, titled: bool) -> list[dict[str, Any]]:
    """Ends of each bin on the axis, its share of the values per unit of the axis, and its words."""
    parts, prefix = item["bins"], f"{item['title']}, " if titled else ""
    whole = sum(part["count"] for part in parts)
    return [
        {
            "low": low,
            "high": high,
            "density": part["count"] / whole / (high - low),
            "words": f"{prefix}{span(part['low'], part['high'])} {item['unit']}".strip() + f": {number(part['count'])}",
        }
        for part, (low, high) in zip(parts, _ends([(part["low"], part["high"]) for part in parts]), strict=True)
    ]


def _ends(ends: Sequence[tuple[float | None, float | None]]) -> list[tuple[float, float]]:
    """The ends of each bin on the axis. The outermost bins hold the tails; they are drawn as wide as the median bin."""
    widths = [high - low for low, high in ends if low is not None and high is not None and high > low]
    step = median(widths) if widths else 1.0
    drawn = []
    for index, (low, high) in enumerate(ends):
        if index == 0 and high is not None and len(ends) > 1:
            drawn.append((high - step, high))
        elif index + 1 == len(ends) or high is None:
            drawn.append((low or 0.0, (low or 0.0) + step))
        else:
            drawn.append((low or 0.0, max(high, (low or 0.0) + step / 100)))
    return drawn


def _quantiles(item: Mapping[str, Any]) -> str:
    """Median and 95th percentile, as far as the bins tell them."""
    middle, most = (_quantile(item["bins"], share) for share in (0.5, 0.95))
    if middle is None or most is None:
        return ""
    return f"half below {number(middle, 2)}, 95% below {number(most, 2)}"


def _quantile(bins: Sequence[Mapping[str, Any]], share: float) -> float | None:
    """Linear within the bin that holds it; None where that bin is open."""
    wanted, below = share * sum(part["count"] for part in bins), 0
    for part in bins:
        if part["count"] and below + part["count"] >= wanted:
            if not (is_number(part["low"]) and is_number(part["high"])):
                return None
            return float(part["low"] + (part["high"] - part["low"]) * (wanted - below) / part["count"])
        below += part["count"]
    return None
