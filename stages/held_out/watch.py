"""Held-out figures over a training run: when they are due, their rows on disk, and what follows from them.

    held_out.jsonl, held_out.crc32   a line per evaluation and its checksum, as they come
    held_out.parquet                 the same as a table, when training has ended

A resumed run goes on from the rows up to its checkpoint, so that an interrupted one leaves the rows of an uninterrupted
one; what is best and whether patience is at its end are functions of the rows.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from contextlib import suppress

import polars as pl
from accelerate import Accelerator
from torch import Tensor

from scoreonce.pipeline.evaluation.choice import Row, beats_start, best_row, is_over
from scoreonce.pipeline.pages.numbers import duration, number, percent
from scoreonce.schemas.manifests import HeldOutChoice
from scoreonce.schemas.tables import HeldOutStep
from scoreonce.stages.common.files import write_parquet
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data.json_lines import append_line, checksums_of, read_lines, write_lines
from scoreonce.stages.held_out.evaluator import Evaluator
from scoreonce.stages.held_out.settings import interval
from scoreonce.stages.sharded.processes import on_first

logger = logging.getLogger(__name__)

Metrics = dict[str, float | int]


class Watch:
    """The held-out figures of one training run, on every process; without an `evaluator` none are added.

    `steps`: optimizer steps of the whole run.
    """

    def __init__(
        self,
        run: Run,
        evaluator: Evaluator | None,
        accelerator: Accelerator,
        *,
        steps: int,
        steps_per_epoch: int,
    ) -> None:
        self._settings, self._paths, self._evaluate = run.evaluate, RunPaths.of(run), evaluator
        self._accelerator, self._steps = accelerator, steps
        self._interval = interval(run.evaluate.every or steps, steps_per_epoch)
        self.rows = _readable(self._paths)
        self.must_keep = False  # whether the weights of this step may become the policy's
        self.over = False  # whether training ends here, by patience

    @property
    def planned_tokens(self) -> int:
        """Positions of prompt rows over all evaluations of the run, if patience does not end it."""
        if self._evaluate is None:
            return 0
        return sum(row.tokens for row in self._evaluate.sample.rows) * (1 + math.ceil(self._steps / self._interval))

    def begin(self, done: int, state: Mapping[str, Tensor]) -> None:
        """Go on after step `done` with the rows up to it; before the first step, evaluate the policy as it is."""
        self.rows = on_first(lambda: self._cut(done))
        if self._evaluate is None:
            return
        took = ""
        if done == 0:
            self._accelerator.log(self._add(0, state), step=0)
            took = f"; the first took {duration(self.rows[0]['seconds'])}"
        self.over = self._is_over()
        if self._accelerator.is_main_process:
            sample, steps = self._evaluate.sample, "step" if self._interval == 1 else f"{self._interval:,} steps"
            pairs = f"{len(sample):,} of {sample.of:,} held-out pairs"
            logger.info(f"{self._paths.label}: figures of {pairs} after every {steps}{took}")

    def after(self, step: int, state: Mapping[str, Tensor]) -> Metrics:
        """The metrics of an evaluation after this step; none where none is due. The last step always has one."""
        self.must_keep = False
        if self._evaluate is None or (step % self._interval and step != self._steps):
            return {}
        metrics = self._add(step, state)
        self.must_keep, self.over = self.needs(step) == step, self._is_over()
        return metrics

    def needs(self, step: int) -> int | None:
        """The step whose weights a run that has come to `step` may still write as its policy; None: only later ones."""
        if self._evaluate is None or self._settings.policy == "last":
            return None
        best = best_row([row for row in self.rows if row["step"] <= step], self._settings.metric)
        return None if best is None else int(best["step"])

    def finish(self) -> None:
        """Write the table."""
        if self.rows:
            table = HeldOutStep.validate(pl.DataFrame(self.rows, schema=HeldOutStep.create_empty().schema))
            write_parquet(self._paths.held_out, table.to_arrow(compat_level=pl.CompatLevel.oldest()))

    def choice(self, last: int) -> HeldOutChoice | None:
        """What came of a run that ended with step `last`; None where there are no figures."""
        if self._evaluate is None or not self.rows:
            return None
        best, metric, chosen = best_row(self.rows, self._settings.metric), self._settings.metric, self.needs(last)
        return HeldOutChoice(
            metric=metric,
            best_step=None if best is None else best["step"],
            best=None if best is None else best[metric],
            last_step=last,
            planned_steps=self._steps,
            stopped="patience" if last < self._steps else "all steps done",
            policy_step=last if chosen is None else chosen,
        )

    def say(self, choice: HeldOutChoice, training_seconds: float) -> None:
        """Log what came of it, and its cost beside `training_seconds`, the time of the steps."""
        label, metric = self._paths.label, choice.metric
        if choice.stopped == "patience":
            logger.info(
                f"{label}: stopped after step {choice.last_step:,} of {choice.planned_steps:,}: held-out {metric} was "
                f"not better in {self._settings.patience} evaluations"
            )
        taken = sum(row["seconds"] for row in self.rows)
        cost = f"held-out figures took {percent(taken / (taken + training_seconds), 0)} of the time"
        if choice.best_step is None:
            logger.info(f"{label}: {cost}")
            return
        whose = ", whose weights the model has" if choice.policy_step == choice.best_step else ""
        best = f"held-out {metric} is best after step {choice.best_step:,}, {number(choice.best)}{whose}"
        logger.info(f"{label}: {best}; {cost}")
        if beats_start(self.rows, metric) is False:
            logger.warning(
                f"{label}: held-out {metric} was no better at any step than before the first, "
                f"{number(self.rows[0][metric])}"
            )

    def _is_over(self) -> bool:
        return is_over(self.rows, self._settings.metric, self._settings.patience)

    def _add(self, step: int, state: Mapping[str, Tensor]) -> Metrics:
        assert self._evaluate is not None
        row, metrics = self._evaluate(step, state)
        self.rows.append(row)
        if self._accelerator.is_main_process:
            path = self._paths.held_out_log
            append_line(path, row)
            for written in (path, checksums_of(path)):
                with written.open("rb+") as handle:
                    os.fsync(handle.fileno())  # a checkpoint must not outlive a line before it
        return metrics

    def _cut(self, done: int) -> list[Row]:
        kept = [row for row in self.rows if row["step"] <= done] if done else []
        if kept or self._paths.held_out_log.exists():
            write_lines(self._paths.held_out_log, kept)
        return kept


def _readable(paths: RunPaths) -> list[Row]:
    """The rows, up to a damaged line if there is one: `step_log.log_damage` passes over checkpoints after it."""
    rows: list[Row] = []
    with suppress(OSError, ValueError):
        rows.extend(read_lines(paths.held_out_log))
    return rows
