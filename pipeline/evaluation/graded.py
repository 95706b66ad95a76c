"""Candidates ranked by grades of their trainings: a true reward, or what a judge says of samples.

Of each training there is a mean with its 95 % interval. The prompts are the same for all seeds of a candidate, so that
what they leave uncertain is the mean of the seeds' half widths, and no smaller with more seeds; the seeds themselves
are a term beside it, as in `standings`. Differences take the samples of two candidates as independent (Newcombe 1998,
method 10), which is wide where both do well on the same prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from scoreonce.pipeline.evaluation.intervals import Z95, Interval
from scoreonce.pipeline.evaluation.standings import ERROR, Scores, Standings, of_seeds, seeds_square


@dataclass(frozen=True)
class _Grade:
    """Mean of a candidate's seeds, what its prompts leave uncertain below and above, and the seeds (seeds, 1)."""

    mean: float
    below: float
    above: float
    seeds: Scores


def graded(found: Standings, grades: Mapping[str, Sequence[Interval]], *, share: bool = False) -> Standings:
    """The same candidates, ranked by `grades`, one of each seed; of a `share`, intervals end at 0 and 1."""
    own = {row.name: _grade(grades[row.name]) for row in found.rows}
    order = sorted(found.rows, key=lambda row: -own[row.name].mean)
    best, error = own[order[0].name], ERROR / max(1, len(order) - 1)
    rows = []
    for row in order:
        each = own[row.name]
        behind = None if each is best else _difference(best, each, error)
        rows.append(
            replace(
                row,
                grade=_interval(each, share),
                behind=behind,
                tied=behind is None or behind.low <= 0,
                near=behind is None or behind.mean <= _standard_error(best, each),
            )
        )
    return replace(found, rows=tuple(rows))


def _grade(seeds: Sequence[Interval]) -> _Grade:
    count = len(seeds)
    return _Grade(
        sum(each.mean for each in seeds) / count,
        sum(each.mean - each.low for each in seeds) / count,
        sum(each.high - each.mean for each in seeds) / count,
        np.array([[each.mean] for each in seeds]),
    )


def _interval(each: _Grade, share: bool) -> Interval:
    seeds = seeds_square([each.seeds], ERROR) ** 0.5
    low, high = each.mean - math.hypot(each.below, seeds), each.mean + math.hypot(each.above, seeds)
    return Interval(each.mean, max(0.0, low), min(1.0, high)) if share else Interval(each.mean, low, high)


def _difference(best: _Grade, other: _Grade, error: float) -> Interval:
    wider = float(stats.norm.ppf(1 - error / 2)) / Z95
    seeds = seeds_square([best.seeds, other.seeds], error) ** 0.5
    mean = best.mean - other.mean
    below = math.hypot(wider * best.below, wider * other.above, seeds)
    return Interval(mean, mean - below, mean + math.hypot(wider * best.above, wider * other.below, seeds))


def _standard_error(best: _Grade, other: _Grade) -> float:
    seeds = sum(term for term, _ in of_seeds([best.seeds, other.seeds]))
    return math.hypot(best.below / Z95, other.above / Z95, seeds**0.5)
