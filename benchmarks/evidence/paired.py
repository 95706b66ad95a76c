"""Paired comparisons over seeds, each arm with the candidate that the validation split chose.

A seed's trainings share pairs, order and the noise of the judged samples, so that differences are taken seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from scipy import stats

from scoreonce.pipeline.evaluation.intervals import Z95, Interval

ERROR = 0.05  # of a wrong statement about any comparison of a claim
NATS = 20.0  # of KL, up to which policies are compared
Z80 = 0.8416212335729143  # quantile 0.8 of the standard normal distribution
Verdict = Literal["held", "not held", "cannot be told here"]


@dataclass(frozen=True)
class Comparison:
    """A difference that a claim says has a sign: its mean over seeds, Student's 95 % interval, and a two-sided p."""

    says: str  # the difference, and what of it is claimed, in words
    sign: int  # as claimed
    values: tuple[float, ...]  # one per seed

    @property
    def interval(self) -> Interval:
        """Infinitely wide for one seed; of no width where all are equal."""
        values = np.array(self.values)
        mean, count = float(values.mean()), len(values)
        if count < 2:
            return Interval(mean, -np.inf, np.inf)
        half = float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5)
        return Interval(mean, mean - half, mean + half)

    @property
    def p(self) -> float:
        """Of the hypothesis that the mean is 0; 1 where all are equal to it, or for one seed."""
        if len(self.values) < 2 or not any(self.values):
            return 1.0
        return float(stats.ttest_1samp(self.values, 0).pvalue)

    @property
    def seeds_to_tell(self) -> int | None:
        """Seeds with which a difference as large as this one is found in 4 of 5 experiments, if it is the true one.

        ((z(0.975) + z(0.8)) s / mean)^2, s the deviation over seeds; None where that is not defined.
        """
        values = np.array(self.values)
        if len(values) < 2 or not values.mean():
            return None
        return math.ceil(((Z95 + Z80) * values.std(ddof=1) / values.mean()) ** 2)


def adjusted(comparisons: Sequence[Comparison]) -> list[float]:
    """Holm's p of each: below `ERROR`, the error of a wrong statement about any of them is at most that."""
    order = sorted(range(len(comparisons)), key=lambda index: comparisons[index].p)
    found, largest = [1.0] * len(comparisons), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(comparisons) - rank) * comparisons[index].p))
        found[index] = largest
    return found


def verdict(comparisons: Sequence[Comparison]) -> Verdict:
    """Held where every difference has the claimed sign, not held where one has the other, beyond chance (Holm)."""
    signs = [
        np.sign(each.interval.mean) * each.sign if p < ERROR else 0
        for each, p in zip(comparisons, adjusted(comparisons), strict=True)
    ]
    if -1 in signs:
        return "not held"
    return "held" if all(sign == 1 for sign in signs) else "cannot be told here"


def chosen(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of each arm's candidate with the best validation reward (`best`), by flips and part."""
    arms = ["arm", "flips", "part"]
    return rows.join(best(rows, arms, "candidate"), on=[*arms, "candidate"], how="inner")


def best(rows: pl.DataFrame, of: Sequence[str], choice: str) -> pl.DataFrame:
    """What is chosen for each group `of`: the `choice` with the best validation reward, a mean over seeds, of those
    with at most `NATS` of validation KL; where none has, the one with the least.

    A policy further away earns by texts that the reference would not write, and none of a group's seeds may diverge.
    """
    means = rows.group_by([*of, choice]).agg(
        pl.col("validation_reward").mean(),
        pl.when(pl.col("validation_kl").null_count() == 0).then(pl.col("validation_kl").mean()).alias("kl"),
    )
    beyond = pl.max_horizontal(pl.col("kl").fill_null(float("inf")), NATS)
    ordered = means.with_columns(beyond=beyond).sort(
        "beyond", "validation_reward", choice, descending=[False, True, False]
    )
    return ordered.group_by(of, maintain_order=True).first().select(*of, choice)


def difference(rows: pl.DataFrame, first: str, second: str, measure: str, says: str, sign: int = 1) -> Comparison:
    """`measure` of an arm minus that of another, of rows with one training of each arm and seed, seed by seed.

    A seed where one has none, such as the KL of a training that diverged, is left out.
    """
    one, other = (rows.filter(pl.col("arm") == arm).sort("seed") for arm in (first, second))
    both = one.join(other, on="seed", how="inner").sort("seed").drop_nulls([measure, f"{measure}_right"])
    return Comparison(says, sign, tuple((both[measure] - both[f"{measure}_right"]).to_list()))


def slopes(rows: pl.DataFrame) -> list[float]:
    """Least-squares slope of test reward over ln beta, seed by seed: reward per factor e."""
    found = []
    for _, own in rows.sort("seed").group_by("seed", maintain_order=True):
        found.append(float(np.polyfit(np.log(own["beta"].to_numpy()), own["test_reward"].to_numpy(), 1)[0]))
    return found


def frontier_areas(rows: pl.DataFrame, reference: float, nats: float) -> pl.DataFrame:
    """Mean gain in test reward over KL from 0 to `nats`, by arm and seed: `area`.

    The frontier begins at the reference (no KL, no gain), is straight between trainings, and keeps the best reward so
    far; behind the last one it is flat, since a policy with more KL could always be less.
    """
    areas = []
    for (arm, seed), own in rows.drop_nulls("test_kl").sort("test_kl").group_by("arm", "seed", maintain_order=True):
        kl = np.array([0.0, *own["test_kl"].to_list()])
        gain = np.maximum.accumulate([0.0, *(own["test_reward"] - reference).to_list()])
        places = np.linspace(0.0, nats, 1001)
        areas.append({"arm": arm, "seed": seed, "area": float(np.interp(places, kl, gain).mean())})
    return pl.DataFrame(areas)
