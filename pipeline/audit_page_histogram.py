"""Histograms of the audit page as positions on a scale; the template draws them, no script needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any

from scoreonce.pipeline.report_format import is_number, number

TICKS = 4
SERIES = 8
# An outermost bin this much wider than the others holds a tail: drawn as wide as they are.
TAIL = 1.5


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
    groups = groupby(drawn, key=lambda item: (item.get("group") or item["name"], item["unit"]))
    return [_histogram(members) for _, group in groups if (members := list(group)[:SERIES])]


def _histogram(members: list[Mapping[str, Any]]) -> Histogram:
    several = len(members) > 1
    bins = [_bins(item) for item in members]
    low, high = min(each.low for part in bins for each in part), max(each.high for part in bins for each in part)
    highest = max(each.density for part in bins for each in part)
    series = tuple(Series(item["title"], f"var(--run-{index})", _bars(part, low, high, highest))
                   for index, (item, part) in enumerate(zip(members, bins, strict=True)))
    named = [f"{item['title']}: {middle}" if several else middle for item in members if (middle := _middle(item))]
    title = members[0].get("group") or members[0]["title"]
    return Histogram(_heading(title), ", ".join(part for part in ("; ".join(named), members[0]["unit"]) if part),
                     series, _ticks(low, high))


def _heading(title: str) -> str:
    words = title.replace("_", " ")
    return words[:1].upper() + words[1:]


def _bins(item: Mapping[str, Any]) -> list[_Bin]:
    whole = sum(part["count"] for part in item["bins"])
    inner = [part["high"] - part["low"] for part in item["bins"] if _is_closed(part)]
    step = median(inner) if inner else 1.0
    return [_Bin(low, high, part["count"] / whole / (high - low), f"{_span(part, item['unit'])}: {number(part['count'])}")
            for part in item["bins"] for low, high in [_drawn(part, step)]]


def _is_closed(part: Mapping[str, Any]) -> bool:
    return is_number(part["low"]) and is_number(part["high"]) and part["low"] < part["high"]


def _drawn(part: Mapping[str, Any], step: float) -> tuple[float, float]:
    """The ends of a bin on the axis: a tail, or a bin without width, gets the width of the others."""
    low, high = part["low"], part["high"]
    if _is_closed(part) and high - low <= TAIL * step:
        return low, high
    return low, high


def _bars(bins: Sequence[_Bin], low: float, high: float, highest: float) -> tuple[Bar, ...]:
    width = 100 / (high - low)
    return tuple(Bar((each.low - low) * width, (each.high - each.low) * width, 100 * each.density / highest, each.words)
                 for each in bins)
