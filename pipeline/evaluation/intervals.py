"""95 % intervals: Wilson's for a share, the normal approximation for a mean.

They take values as independent; where many pairs share a prompt they are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

Z95 = 1.959963984540054  # quantile 0.975 of the standard normal distribution
CHANCE = 0.5  # the accuracy, or win rate, of a coin


@dataclass(frozen=True)
class Interval:
    """A mean, or a share, and both ends of its interval."""

    mean: float
    low: float
    high: float


def difference(first: Interval, second: Interval) -> Interval:
    """The first minus the second, of independent samples, from their intervals (Newcombe 1998, method 10).

    Below the difference lie the lower half of the first and the upper half of the second, as squares, above it the
    others. Of symmetric intervals that is the usual one of a difference of means.
    """
    mean = first.mean - second.mean
    below = math.hypot(first.mean - first.low, second.high - second.mean)
    above = math.hypot(first.high - first.mean, second.mean - second.low)
    return Interval(mean, mean - below, mean + above)


def wilson(share: pl.Expr, count: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Both ends of the score interval of a share of `count` pairs (Wilson 1927), clipped to [0, 1]; null for no pairs.

    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n). Half points for ties make it conservative: a score in
    {0, ½, 1} varies less than a binary one of the same mean.
    """
    ratio = Z95**2 / count
    centre = (share + ratio / 2) / (1 + ratio)
    half = Z95 * (share * (1 - share) / count + ratio / (4 * count)).sqrt() / (1 + ratio)
    # The interval of 0 begins at 0 and that of 1 ends at 1; rounding may miss both.
    low = pl.when(share == 0).then(0.0).otherwise((centre - half).clip(0.0))
    high = pl.when(share == 1).then(1.0).otherwise((centre + half).clip(upper_bound=1.0))
    return low, high


def mean_half_width(values: pl.Expr) -> pl.Expr:
    """Half the width of the interval of a mean: z · s / √n, s the sample deviation (n − 1); null for fewer than two."""
    return Z95 * values.std() / values.len().sqrt()


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and both ends of its interval, in the unit of the values; of one value, that value three times.

    Raises `ZeroDivisionError` for no values.
    """
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, mean, mean
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = Z95 * math.sqrt(variance / len(values))
    return mean, mean - half, mean + half
