"""The training-dynamics map of each run: a dot per pair, by the mean and the spread of its margin over its visits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scoreonce.pipeline.pages.audit.axis import ticks
from scoreonce.pipeline.pages.numbers import number, percent

REGIONS = (("learned", "var(--run-2)"), ("ambiguous", "var(--run-4)"), ("hard", "var(--run-5)"))


@dataclass(frozen=True)
class Region:
    """Pairs of one kind: how many, their colour, and their dots as the path of an SVG of 100 by 100."""

    name: str
    paint: str
    words: str
    path: str


@dataclass(frozen=True)
class DynamicsMap:
    """One run. Ticks are positions in per cent, from the left and from the bottom, with their labels."""

    label: str
    pairs: str
    x: str
    y: str
    zero: float
    regions: tuple[Region, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def dynamics_maps(maps: Sequence[Mapping[str, Any]]) -> list[DynamicsMap]:
    """The maps as they are drawn; those without a point are left out."""
    return [_map(entry) for entry in maps if entry["points"]]


def _map(entry: Mapping[str, Any]) -> DynamicsMap:
    means, spreads = ([point[name] for point in entry["points"]] for name in ("mean", "spread"))
    (low, high), (_, most) = _bulk(means), _bulk(spreads)
    left, right, top = min(0.0, low), max(0.0, high), most or 1.0
    right = right if right > left else left + 1.0
    places: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in REGIONS}
    for mean, spread, region in zip(means, spreads, _regions(entry, means, spreads), strict=True):
        across = 100 * (mean - left) / (right - left)
        places[region].append((min(100.0, max(0.0, across)), max(0.0, 100 - 100 * spread / top)))
    regions = tuple(Region(name, paint, _words(entry, name), _path(places[name])) for name, paint in REGIONS)
    return DynamicsMap(
        entry["label"],
        number(entry["pairs"]),
        entry["x"],
        entry["y"],
        -100 * left / (right - left),
        regions,
        ticks(left, right),
        ticks(0.0, top),
    )


def _bulk(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the axis: all but the outermost hundredth on either side, whose dots stand on the edge."""
    ordered, outer = sorted(values), len(values) // 100
    return ordered[outer], ordered[-1 - outer]


def _regions(entry: Mapping[str, Any], means: Sequence[float], spreads: Sequence[float]) -> list[str]:
    """The kind of each point, such that as many are ambiguous as among all pairs."""
    share = entry["regions"]["ambiguous"] / entry["pairs"]
    restless = round(share * len(spreads))
    edge = sorted(spreads, reverse=True)[restless] if restless < len(spreads) else -1.0
    return [
        "ambiguous" if spread > edge else "learned" if mean > 0 else "hard"
        for mean, spread in zip(means, spreads, strict=True)
    ]


def _words(entry: Mapping[str, Any], name: str) -> str:
    count = entry["regions"][name]
    return f"{name}: {number(count)} ({percent(count / entry['pairs'])})"


def _path(places: Sequence[tuple[float, float]]) -> str:
    """A line without length at each place: round ends make it a dot, whatever the figure's proportions."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
