"""Scales that keep every run readable: one whose values are far larger would press all others into a flat line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import altair as alt

FLAT = 20.0  # times its own range: on a longer axis a line of a small chart is within ten pixels
FAR = 8.0  # times the range of the other points


def groups(extents: Mapping[int, tuple[float, float]]) -> list[list[int]]:
    """Which runs share an axis, by the ends of the values of each; the largest group first, each in ascending order.

    A run goes where no line of the group would be flat: shorter than 1 / `FLAT` of the axis. A constant is flat on any
    axis, so its own range does not count.
    """
    found: list[list[int]] = []
    for run in sorted(extents, key=lambda run: (max(map(abs, extents[run])), run)):
        home = next((each for each in found if _readable([extents[other] for other in (*each, run)])), None)
        if home is None:
            found.append([run])
        else:
            home.append(run)
    return sorted((sorted(each) for each in found), key=lambda each: (-len(each), each))


def _readable(extents: Sequence[tuple[float, float]]) -> bool:
    axis = max(high for _, high in extents) - min(low for low, _ in extents)
    return all(axis <= FLAT * (high - low) for low, high in extents if high > low)


def spread(values: Sequence[float]) -> alt.Scale:
    """The scale of the points of a scatter: linear, or symmetric-logarithmic where one of three or more is far away.

    Symmetric, because KL estimates and rewards may be negative or zero.
    """
    if not flattened(values):
        return alt.Scale(zero=False, padding=12)
    constant = median(map(abs, values)) or 1.0
    return alt.Scale(type="symlog", constant=constant, zero=False, nice=False, padding=12)


def flattened(values: Sequence[float]) -> bool:
    """Whether the values without the smallest or the largest have less than 1 / `FAR` of the whole range."""
    ordered = sorted(values)
    if len(ordered) < 3:
        return False
    rest = min(ordered[-2] - ordered[0], ordered[-1] - ordered[1])
    return 0 < FAR * rest < ordered[-1] - ordered[0]
