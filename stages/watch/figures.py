"""The figures of a run's last steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scoreonce.schemas.metrics import SECONDS, STEP
from scoreonce.stages.watch.runs import RunState

Row = Mapping[str, Any]
RECENT = 20  # steps that a rate is taken from; the first ones of a run compile kernels and start threads


def series(rows: Sequence[Row], metric: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric, without steps at which it was not a number (null in the log)."""
    found = [(row[STEP], row[metric]) for row in rows if _is_number(row.get(STEP)) and _is_number(row.get(metric))]
    return [float(step) for step, _ in found], [float(value) for _, value in found]


def last(rows: Sequence[Row], metric: str) -> float | None:
    """The value at the last step that has one."""
    return next((float(row[metric]) for row in reversed(rows) if _is_number(row.get(metric))), None)


def recent(rows: Sequence[Row], metric: str) -> float | None:
    """The median of the last `RECENT` steps."""
    values = series(rows[-RECENT:], metric)[1]
    return statistics.median(values) if values else None


def seconds_left(run: RunState) -> float | None:
    """How long the steps that are left will take at the pace of the last ones, without checkpoints."""
    pace = recent(run.rows, SECONDS)
    return None if pace is None or run.steps is None else pace * max(0, run.steps - len(run.rows))


def thinned(steps: Sequence[float], values: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """Means over at most `most` groups of neighbours: a terminal shows no more points than it has columns."""
    size = math.ceil(len(values) / most) if values else 1
    groups = [slice(start, start + size) for start in range(0, len(values), size)]
    return [statistics.fmean(steps[group]) for group in groups], [statistics.fmean(values[group]) for group in groups]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
