"""Axes of the audit page's figures: round numbers, and ranges in words."""

from __future__ import annotations

import math

from scoreonce.pipeline.pages.numbers import MINUS, number

TICKS = 4


def span(low: float | None, high: float | None) -> str:
    """`2 to 5`, or `below 5` or `2 and more` where an end is open."""
    words = f"{number(low)} to {number(high)}"
    return f"below {number(high)}" if low is None else f"{number(low)} and more" if high is None else words


def ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Round numbers on the axis, as many as there are room for, and where they stand in per cent."""
    step = _round_up((high - low) / TICKS)
    # An end a hair from a round number is labelled with it.
    values = [index * step for index in range(math.ceil(low / step - 0.05), math.floor(high / step + 0.05) + 1)]
    places = [min(100.0, max(0.0, 100 * (value - low) / (high - low))) for value in values]
    return tuple((place, f"{value:,.6g}".replace("-", MINUS)) for place, value in zip(places, values, strict=True))


def _round_up(value: float) -> float:
    magnitude: float = 10 ** math.floor(math.log10(value))
    return next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= value * (1 - 1e-9))
