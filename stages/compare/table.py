"""A comparison in the terminal, and its trainings as a table."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import polars as pl

from scoreonce.pipeline.evaluation.standings import Standings
from scoreonce.pipeline.pages.compare.data import Trial
from scoreonce.pipeline.pages.compare.verdict import Decision
from scoreonce.pipeline.pages.numbers import clock, percent, points, signed

logger = logging.getLogger(__name__)
FIGURES = ("accuracy", "margin", "chosen_logratios", "rejected_logratios", "cross_entropy_increase")


class Progress:
    """Says a line for each training that is done."""

    def __init__(self, count: int) -> None:
        self.count, self.done = count, 0

    def __call__(self, trial: Trial) -> None:
        """Say what the training came to."""
        self.done += 1
        number = f"[{self.done:>{len(str(self.count))}}/{self.count}]"
        if trial.failure:
            logger.warning(f"{number} {trial.label}: failed: {trial.failure}")
            return
        figures = trial.figures
        logger.info(
            f"{number} {trial.label}: accuracy {percent(figures['accuracy'])}, margin "
            f"{signed(figures['margin'])} nats, drift {signed(figures['cross_entropy_increase'], 3)}, "
            f"{clock(trial.seconds)}"
        )


def trial_rows(trials: Sequence[Trial]) -> pl.DataFrame:
    """One row per training: candidate, seed, label, seconds, failure, and the figures of its evaluation."""
    rows = [
        {
            "candidate": trial.candidate,
            "seed": trial.seed,
            "label": trial.label,
            **{name: trial.figures.get(name) for name in FIGURES},
            "seconds": trial.seconds,
            "failure": trial.failure,
        }
        for trial in trials
    ]
    types = {"candidate": pl.String, "seed": pl.Int64, "label": pl.String, "seconds": pl.Float64, "failure": pl.String}
    return pl.DataFrame(rows, schema={**types, **dict.fromkeys(FIGURES, pl.Float64)})


def standing_lines(found: Standings, trials: Sequence[Trial], chosen: Decision) -> Iterator[str]:
    """The leaderboard and the decision."""
    width = max(len(row.name) for row in found.rows)
    yield f"{'candidate':<{width}}  accuracy  95% interval    behind the best, points"
    for row in found.rows:
        ends = f"{percent(row.accuracy.low)} to {percent(row.accuracy.high)}"
        gap = row.behind
        said = "best" if gap is None else f"{points(gap.mean)} ({points(gap.low)} to {points(gap.high)})"
        tie = ", tied" if row.tied and gap is not None else ""
        yield f"{row.name:<{width}}  {percent(row.accuracy.mean):>8}  {ends:<14}  {said}{tie}"
    failed = sum(trial.failure is not None for trial in trials)
    if failed:
        yield f"{failed:,} of {len(trials):,} trainings failed"
    yield f"take {chosen.recommended}: {chosen.reason}" if chosen.recommended else chosen.reason
