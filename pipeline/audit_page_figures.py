"""Histograms and intervals of the audit page as positions on a scale; the template draws them, no script needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from scoreonce.pipeline.report_format import is_number, number

TICKS = 5
SERIES = 8


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
    """One or several distributions over the same bins. `ticks` are positions in per cent with their labels."""

    title: str
    caption: str
    series: tuple[Series, ...]
    ticks: tuple[tuple[float, str], ...]


def histograms(distributions: Sequence[Mapping[str, Any]]) -> list[Histogram]:
    """A figure for each distribution; those of one group over the same bins share one. Empty ones are left out."""
    drawn = [item for item in distributions if any(part["count"] for part in item["bins"])]
    return [_histogram(group) for group in _together(drawn)]


def _together(distributions: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    def key(item: Mapping[str, Any]) -> object:
        shared = item.get("group")
        return (shared, item["unit"], _edges(item)) if shared else item["name"]

    for _, items in groupby(distributions, key=key):
        members = list(items)
        yield from (members[start:start + SERIES] for start in range(0, len(members), SERIES))


def _edges(item: Mapping[str, Any]) -> tuple[tuple[Any, Any], ...]:
    return tuple((part["low"], part["high"]) for part in item["bins"])


def _histogram(members: list[Mapping[str, Any]]) -> Histogram:
    several = len(members) > 1
    # Series of unlike totals are comparable only as shares.
    scale = max(max(_shares(item)) for item in members)
    series = tuple(Series(item["title"], f"var(--run-{index})", _bars(item, scale))
                   for index, item in enumerate(members))
    title = members[0]["group"] if several else members[0]["title"]
    middles = [f"{item['title']}: {_middle(item)}" if several else _middle(item) for item in members]
    return Histogram(_heading(title), "; ".join(middles), series, _ticks(members[0]))


def _heading(title: str) -> str:
    words = title.replace("_", " ")
    return words[:1].upper() + words[1:]


def _shares(item: Mapping[str, Any]) -> list[float]:
    whole = sum(part["count"] for part in item["bins"])
    return [part["count"] / whole for part in item["bins"]]


def _bars(item: Mapping[str, Any], scale: float) -> tuple[Bar, ...]:
    """Bins of equal width whatever they span, so that a long tail in growing bins can be seen."""
    width = 100 / len(item["bins"])
    return tuple(Bar(index * width, width, 100 * share / scale, f"{_span(part, item['unit'])}: {number(part['count'])}")
                 for index, (part, share) in enumerate(zip(item["bins"], _shares(item), strict=True)))


def _span(part: Mapping[str, Any], unit: str) -> str:
    low, high = part["low"], part["high"]
    if low is not None and low == high:
        return f"{number(low)} {unit}".strip()
    words = f"{number(low)} to {number(high)}"
    words = f"below {number(high)}" if low is None else f"{number(low)} and more" if high is None else words
    return f"{words} {unit}".strip()


def _ticks(item: Mapping[str, Any]) -> tuple[tuple[float, str], ...]:
    """About `TICKS` edges of bins, evenly apart, with the first and the last."""
    bins = item["bins"]
    edges = [part["low"] for part in bins] + [bins[-1]["high"]]
    step = max(1, round(len(bins) / (TICKS - 1)))
    chosen = [index for index in range(0, len(bins), step) if len(bins) - index >= step / 2] + [len(bins)]
    return tuple((100 * index / len(bins), number(edges[index])) for index in chosen if edges[index] is not None)


def _middle(item: Mapping[str, Any]) -> str:
    """Median and the 95th percentile as far as the bins tell them."""
    median, most = (_quantile(item["bins"], share) for share in (0.5, 0.95))
    if median is None or most is None:
        return f"unit: {item['unit']}" if item["unit"] else ""
    return f"half below {number(median, 2)}, 95% below {number(most, 2)} {item['unit']}".strip()


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


@dataclass(frozen=True)
class Shortcut:
    """How well one trait alone predicts the label: the AUC over all pairs, and in each source."""

    title: str
    overall: Mapping[str, Any] | None
    sources: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Scale:
    """The part of [0, 1] that the shortcuts' plot shows; always holds 0.5."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where a value stands, in per cent of the width."""
        return 100 * (value - self.low) / (self.high - self.low)


def shortcuts(entries: Sequence[Mapping[str, Any]]) -> list[Shortcut]:
    """The shortcuts by name, strongest first; entries without a number are left out."""
    known = [entry for entry in entries if is_number(entry["auc"])]
    names = dict.fromkeys(entry["name"] for entry in known)
    found = [_shortcut([entry for entry in known if entry["name"] == name]) for name in names]
    return sorted(found, key=lambda item: -strength(item.overall or {"auc": 0.5}))


def _shortcut(entries: list[Mapping[str, Any]]) -> Shortcut:
    overall = next((entry for entry in entries if entry["source"] is None), None)
    return Shortcut(entries[0]["title"], overall, tuple(entry for entry in entries if entry["source"] is not None))


def strength(entry: Mapping[str, Any]) -> float:
    """How far the AUC is from 0.5, where the trait says nothing about the label."""
    return float(abs(entry["auc"] - 0.5))


def is_sure(entry: Mapping[str, Any]) -> bool:
    """Whether the interval of the AUC leaves out 0.5."""
    low, high = entry["low"], entry["high"]
    return is_number(low) and is_number(high) and not low <= 0.5 <= high


def scale(items: Sequence[Shortcut]) -> Scale:
    """Wide enough for all intervals over all pairs and all AUCs in single sources."""
    overall = [item.overall[key] for item in items if item.overall for key in ("auc", "low", "high")]
    known = [value for value in overall if is_number(value)]
    known += [entry["auc"] for item in items for entry in item.sources]
    # A tenth on either side of 0.5 at least, so that noise looks like noise.
    return Scale(max(0.0, min([0.4, *known]) - 0.02), min(1.0, max([0.6, *known]) + 0.02))
