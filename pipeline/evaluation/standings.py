"""Candidates of a comparison, ranked by held-out accuracy over the same pairs, and what that allows to decide.

A candidate is a method with its settings, trained once for each seed. Two things make its accuracy uncertain: which
pairs were held out, and which seed. With a(s, p) in {0, 1/2, 1} the score of seed s on pair p, ā(p) its mean over S
seeds and m(s) its mean over P pairs, the variance of the mean of all is estimated as

    var(ā) / P + var(m) / S.

The difference of two candidates has var(ā - b̄) / P for the pairs, which are the same for both, and the sum of both
seeds' terms. The quantile is the normal one for pairs and Student's for seeds; with one seed the second term is
unknown and left out. Pairs are taken as independent: where many share a prompt, intervals are too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from scoreonce.pipeline.evaluation.held_out import win_scores
from scoreonce.pipeline.evaluation.intervals import Interval, wilson

ERROR = 0.05  # of a wrong statement about any of the candidates, or of an interval alone
Scores = npt.NDArray[np.float64]  # (seeds, pairs)


@dataclass(frozen=True)
class Standing:
    """A candidate: its accuracy, and how far it is behind the best, in accuracy over the same pairs.

    With a `grade`, which `graded` gives, all else but the accuracy is in its unit.
    """

    name: str
    seeds: int
    accuracy: Interval
    behind: Interval | None  # None for the best; simultaneous over all candidates
    tied: bool  # with the best, or it: the interval has zero in it
    near: bool  # the best, or behind it by no more than one standard error of the difference
    grade: Interval | None = None

    @property
    def leads(self) -> Interval:
        """What it is ranked by: the grade where there is one, else the accuracy."""
        return self.grade or self.accuracy


@dataclass(frozen=True)
class Standings:
    """All candidates, best first, over the pairs that all of them rank."""

    pairs: int
    rows: tuple[Standing, ...]


def standings(evaluations: Mapping[str, Sequence[pl.DataFrame]]) -> Standings:
    """Rank candidates; `evaluations` has for each one a table of `EvaluationPair` by seed.

    A pair counts where every table ranks it. Raises `ValueError` for no candidates, or none of the pairs shared.
    """
    scores, pairs = _scores(evaluations)
    names = sorted(scores, key=lambda name: -float(scores[name].mean()))
    best, others = names[0], len(names) - 1
    rows = []
    for name in names:
        behind = None if name == best else _difference(scores[best], scores[name], ERROR / max(1, others))
        tied = behind is None or behind.low <= 0
        near = behind is None or behind.mean <= _standard_error(scores[best], scores[name])
        rows.append(Standing(name, len(scores[name]), _interval(scores[name]), behind, tied, near))
    return Standings(pairs, tuple(rows))


def difference(first: Sequence[pl.DataFrame], second: Sequence[pl.DataFrame], error: float = ERROR) -> Interval:
    """Accuracy of a candidate minus that of another over the pairs that both rank; tables as in `standings`.

    The interval has level 1 - error.
    """
    scores, _ = _scores({"first": first, "second": second})
    return _difference(scores["first"], scores["second"], error)


def _scores(evaluations: Mapping[str, Sequence[pl.DataFrame]]) -> tuple[dict[str, Scores], int]:
    tables = {
        name: [win_scores(table).select("pair_id", "accuracy") for table in each] for name, each in evaluations.items()
    }
    every = [table for each in tables.values() for table in each]
    if not every:
        raise ValueError("no candidate has been evaluated")
    shared = reduce(lambda left, right: left.join(right, on="pair_id", how="semi"), every).select("pair_id")
    if shared.is_empty():
        raise ValueError("the evaluations have no pair in common")
    return {
        name: np.stack(
            [shared.join(table, on="pair_id", maintain_order="left")["accuracy"].to_numpy() for table in each]
        )
        for name, each in tables.items()
    }, shared.height


def _interval(scores: Scores) -> Interval:
    """Never narrower than Wilson's: where all pairs are right, their variance is 0 and says nothing."""
    mean = float(scores.mean())
    half = _half(scores.mean(0), [scores], ERROR)
    ends = wilson(pl.lit(mean), pl.lit(scores.shape[1]))
    low, high = pl.select(low=ends[0], high=ends[1]).row(0)
    return Interval(mean, max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half)))


def _difference(best: Scores, other: Scores, error: float) -> Interval:
    gap = best.mean(0) - other.mean(0)
    mean, half = float(gap.mean()), _half(gap, [best, other], error)
    return Interval(mean, mean - half, mean + half)


def _standard_error(best: Scores, other: Scores) -> float:
    """Of the difference of two candidates."""
    terms = of_seeds([best, other])
    return float((_of_pairs(best.mean(0) - other.mean(0)) + sum(term for term, _ in terms)) ** 0.5)


def _half(by_pair: Scores, candidates: Sequence[Scores], error: float) -> float:
    """Half the width of an interval of level 1 - error: pairs and seeds, each with its own quantile, as squares."""
    square = float(stats.norm.ppf(1 - error / 2)) ** 2 * _of_pairs(by_pair)
    return float((square + seeds_square(candidates, error)) ** 0.5)


def seeds_square(candidates: Sequence[Scores], error: float) -> float:
    """The square of half the width of an interval of level 1 - error for what seeds leave uncertain, 0 with one each.

    Student's, with the degrees of freedom of Welch and Satterthwaite.
    """
    terms = of_seeds(candidates)
    total = sum(term for term, _ in terms)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(term**2 / degrees for term, degrees in terms)
    return float(stats.t.ppf(1 - error / 2, freedom)) ** 2 * total


def _of_pairs(by_pair: Scores) -> float:
    """The variance of a mean over pairs; 0 for a single one."""
    return float(by_pair.var(ddof=1)) / len(by_pair) if len(by_pair) > 1 else 0.0


def of_seeds(candidates: Sequence[Scores]) -> list[tuple[float, int]]:
    """For each candidate of several seeds, the variance of its mean over them, and its degrees of freedom."""
    return [(float(each.mean(1).var(ddof=1)) / len(each), len(each) - 1) for each in candidates if len(each) > 1]
