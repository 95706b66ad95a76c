"""Histograms of the audit page as positions on a scale; the template draws them, no script needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scoreonce.pipeline.pages.audit.axis import span, ticks
from scoreonce.pipeline.pages.numbers import is_number, number

SERIES = 8
PAINTS = {"chosen": "var(--chosen)", "rejected": "var(--rejected)"}


@dataclass(frozen=True)
class Bar:
    """One bin: where it begins and how wide it is, its height, all in per cent of the figure, and its words."""

    left: float
    width: float
    height: float
    words: str


@dataclass(frozen=True)
class Series:
    """The bins of one distribution, drawn in the colour `paint`."""

    title: str
    paint: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Histogram:
    """One or several distributions on one scale. `ticks` are positions in per cent with their labels."""

    title: str
    unit: str
    caption: str
    series: tuple[Series, ...]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class _Bin:
    """A bin as it is drawn: its ends on the axis, its share of the values per unit of the axis, and its words."""

    low: float
    high: float
    density: float
    words: str


def histograms(distributions: Sequence[Mapping[str, Any]]) -> list[Histogram]:
    """A figure for each distribution; those of one group and unit share one. Those without a value are left out."""
    drawn = [item for item in distributions if any(part["count"] for part in item["bins"])]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for item in drawn:
        groups.setdefault((item.get("group") or item["name"], item["unit"]), []).append(item)
    return [_histogram(members[:SERIES]) for members in groups.values()]


def _histogram(members: list[Mapping[str, Any]]) -> Histogram:
    bins = [_bins(item) for item in members]
    low, high = min(each.low for part in bins for each in part), max(each.high for part in bins for each in part)
    highest = max(each.density for part in bins for each in part)
    paints = [PAINTS.get(item["title"], f"var(--run-{index})") for index, item in enumerate(members)]
    series = tuple(
        Series(item["title"], paint, _bars(part, low, high, highest))
        for item, paint, part in zip(members, paints, bins, strict=True)
    )
    group, middles = members[0].get("group"), [(item["title"], middle) for item in members if (middle := _middle(item))]
    named = [f"{title}: {middle}" if group else middle for title, middle in middles]
    return Histogram(
        _heading(group or members[0]["title"]), members[0]["unit"], "; ".join(named), series, ticks(low, high)
    )


def _heading(title: str) -> str:
    words = title.replace("_", " ")
    return words[:1].upper() + words[1:]


def _bins(item: Mapping[str, Any]) -> list[_Bin]:
    parts, unit = item["bins"], item["unit"]
    whole = sum(part["count"] for part in parts)
    return [
        _Bin(low, high, part["count"] / whole / (high - low), f"{_span(part, unit)}: {number(part['count'])}")
        for part, (low, high) in zip(parts, _drawn([(part["low"], part["high"]) for part in parts]), strict=True)
    ]


def _drawn(ends: Sequence[tuple[float | None, float | None]]) -> list[tuple[float, float]]:
    """The ends of each bin on the axis. The outermost ones hold the tails: they are as wide there as the middle bin."""
    widths = [high - low for low, high in ends if low is not None and high is not None and high > low]
    step = median(widths) if widths else 1.0
    drawn = []
    for index, (low, high) in enumerate(ends):
        if index == 0 and high is not None:
            drawn.append((high - step, high))
        elif index + 1 == len(ends) or high is None:
            drawn.append((low or 0.0, (low or 0.0) + step))
        else:
            drawn.append((low or 0.0, max(high, (low or 0.0) + step / 100)))
    return drawn


def _bars(bins: Sequence[_Bin], low: float, high: float, highest: float) -> tuple[Bar, ...]:
    width = 100 / (high - low)
    return tuple(
        Bar((each.low - low) * width, (each.high - each.low) * width, 100 * each.density / highest, each.words)
        for each in bins
    )


def _span(part: Mapping[str, Any], unit: str) -> str:
    return f"{span(part['low'], part['high'])} {unit}".strip()


def _middle(item: Mapping[str, Any]) -> str:
    """Median and 95th percentile as far as the bins tell them."""
    median_value, most = (_quantile(item["bins"], share) for share in (0.5, 0.95))
    if median_value is None or most is None:
        return ""
    return f"half below {number(median_value, 2)}, 95% below {number(most, 2)}"


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
