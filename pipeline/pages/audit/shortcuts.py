"""Shortcuts of the audit page: intervals as positions on one scale, the strongest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scoreonce.pipeline.pages.numbers import is_number


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
