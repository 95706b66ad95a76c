"""The audit page's table of shortcuts: one row per trait, the strongest first, with its interval as a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scoreonce.pipeline.evaluation.intervals import CHANCE
from scoreonce.pipeline.pages.charts import color, interval_strip
from scoreonce.pipeline.pages.numbers import fixed, is_number


@dataclass(frozen=True)
class ShortcutRow:
    """How well one trait alone predicts the label: the AUC over all pairs, None if unknown, and in each source."""

    title: str
    overall: Mapping[str, Any] | None
    sources: tuple[Mapping[str, Any], ...]


def shortcut_rows(entries: Sequence[Mapping[str, Any]]) -> list[ShortcutRow]:
    """The shortcuts by name, strongest first; entries without a number are left out."""
    known = [entry for entry in entries if is_number(entry["auc"])]
    names = dict.fromkeys(entry["name"] for entry in known)
    found = [_row([entry for entry in known if entry["name"] == name]) for name in names]
    return sorted(found, key=lambda item: -strength(item.overall or {"auc": CHANCE}))


def _row(entries: list[Mapping[str, Any]]) -> ShortcutRow:
    overall = next((entry for entry in entries if entry["source"] is None), None)
    return ShortcutRow(entries[0]["title"], overall, tuple(entry for entry in entries if entry["source"] is not None))


def strength(entry: Mapping[str, Any]) -> float:
    """How far the AUC is from 0.5, where the trait says nothing about the label."""
    return float(abs(entry["auc"] - CHANCE))


def is_sure(entry: Mapping[str, Any]) -> bool:
    """Whether the interval of the AUC leaves out 0.5."""
    low, high = entry["low"], entry["high"]
    return is_number(low) and is_number(high) and not low <= CHANCE <= high


def domain(rows: Sequence[ShortcutRow]) -> tuple[float, float]:
    """Ends of the axis: wide enough for all intervals over all pairs and all AUCs in single sources."""
    overall = [row.overall[key] for row in rows if row.overall for key in ("auc", "low", "high")]
    known = [value for value in overall if is_number(value)]
    known += [entry["auc"] for row in rows for entry in row.sources]
    # At least a tenth on either side of 0.5, so that noise looks like noise.
    return max(0.0, min([0.4, *known]) - 0.02), min(1.0, max([0.6, *known]) + 0.02)


def strip(row: ShortcutRow, ends: tuple[float, float]) -> dict[str, Any]:
    """The chart of one row: the interval over all pairs, and a small dot for each source."""
    points = [(entry["auc"], f"{entry['source']}: {fixed(entry['auc'])}") for entry in row.sources]
    return interval_strip(ends, _interval(row.overall), color(0), points)


def _interval(overall: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    """Low, AUC and high; without an interval all three are the AUC."""
    if overall is None:
        return None
    low, high = (overall[key] if is_number(overall[key]) else overall["auc"] for key in ("low", "high"))
    return low, overall["auc"], high
