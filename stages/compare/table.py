"""A comparison in the terminal, and its trainings as a table."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence

import polars as pl

from scoreonce.pipeline.pages.compare.data import Comparison, Trial
from scoreonce.pipeline.pages.numbers import clock, duration, percent, signed

logger = logging.getLogger(__name__)
FIGURES = ("accuracy", "margin", "chosen_logratios", "rejected_logratios", "cross_entropy_increase")


class Progress:
    """Says a line for each training that is done, and how long the rest takes if it goes on so.

    `new`: labels of trainings that are not finished yet; of the others nothing is done again. `clock`: seconds.
    """

    def __init__(self, count: int, new: Collection[str], clock: Callable[[], float] = time.perf_counter) -> None:
        self.count, self.done = count, 0
        self.new, self.ended, self.clock, self.started = frozenset(new), 0, clock, clock()

    def __call__(self, trial: Trial) -> None:
        """Say what the training came to."""
        self.done += 1
        self.ended += trial.label in self.new
        number = f"[{self.done:>{len(str(self.count))}}/{self.count}]"
        if trial.failure:
            logger.warning(f"{number} {trial.label}: failed: {trial.failure}")
            return
        figures = trial.figures
        logger.info(
            f"{number} {trial.label}: accuracy {percent(figures['accuracy'])}, margin "
            f"{signed(figures['margin'])} nats, drift {signed(figures['cross_entropy_increase'], 3)}, "
            f"{clock(trial.seconds)}{self._left()}"
        )

    def _left(self) -> str:
        """The time of those that are left, from the mean of those that ended."""
        left = len(self.new) - self.ended
        if not left or not self.ended:
            return ""
        return f"; {left:,} left, about {duration((self.clock() - self.started) / self.ended * left)}"


def trial_rows(trials: Sequence[Trial]) -> pl.DataFrame:
    """One row per training: candidate, seed, label, seconds, peak memory in bytes, failure, and held-out figures."""
    rows = [
        {
            "candidate": trial.candidate,
            "seed": trial.seed,
            "label": trial.label,
            **{name: trial.figures.get(name) for name in FIGURES},
            "seconds": trial.seconds,
            "peak_memory": trial.memory,
            "failure": trial.failure,
        }
        for trial in trials
    ]
    types = {"candidate": pl.String, "seed": pl.Int64, "label": pl.String, "seconds": pl.Float64}
    types |= {"peak_memory": pl.Int64, "failure": pl.String}
    return pl.DataFrame(rows, schema={**types, **dict.fromkeys(FIGURES, pl.Float64)})


def standing_lines(page: Comparison) -> Iterator[str]:
    """The leaderboard, what it is ranked by, and the decision."""
    measure, rows = page.measure, page.standings.rows
    yield f"ranked by {'the ' * page.is_graded}{measure.title}"
    if page.partly:
        yield f"note: {page.partly}"
    width = max(len(row.name) for row in rows)
    heading = "grade" if page.is_graded else "accuracy"
    unit = f", {measure.unit}" if measure.unit else ""
    yield f"{'candidate':<{width}}  {heading:<8}  95% interval    behind the best{unit}"
    for row in rows:
        ends = f"{measure.text(row.leads.low)} to {measure.text(row.leads.high)}"
        gap, shown = row.behind, measure.difference
        said = "best" if gap is None else f"{shown(gap.mean)} ({shown(gap.low)} to {shown(gap.high)})"
        tie = ", tied" if row.tied and gap is not None else ""
        yield f"{row.name:<{width}}  {measure.text(row.leads.mean):>8}  {ends:<14}  {said}{tie}"
    failed = sum(trial.failure is not None for trial in page.trials)
    if failed:
        yield f"{failed:,} of {len(page.trials):,} trainings failed"
    chosen = page.decision
    yield f"take {chosen.recommended}: {chosen.reason}" if chosen.recommended else chosen.reason
    yield from (f"note: {remark}" for remark in page.remarks)
