"""Means with standard errors, of values in groups that belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Values = Sequence[float] | npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean and its standard error; None where a single group tells nothing about it."""

    mean: float
    error: float | None


def ratio(numerators: Values, denominators: Values) -> Estimate:
    """Σ numerators / Σ denominators, a pair for each independent group, with the standard error by linearisation.

    With m groups and residuals e = numerator − ratio · denominator: √(m / (m − 1) Σ e²) / Σ denominators (Cochran 1977,
    chapter 6). Of groups that all have the denominator 1 this is a mean and s / √m. Raises `ZeroDivisionError` where
    the denominators sum to 0.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    total = float(below.sum())
    mean = float(above.sum()) / total
    if len(above) < 2:
        return Estimate(mean, None)
    residuals = above - mean * below
    return Estimate(mean, math.sqrt(len(above) / (len(above) - 1) * float(residuals @ residuals)) / total)
