"""Whether the held-out loss rose since some step: the losses of the same pairs, compared over the evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from scoreonce.pipeline.evaluation.intervals import Interval, difference, mean_interval
from scoreonce.pipeline.evaluation.standings import ERROR
from scoreonce.pipeline.verdict.facts import LossRise
from scoreonce.pipeline.verdict.measures import last_tenth
from scoreonce.schemas import held_out as h
from scoreonce.schemas.metrics import LOSS, STEP


def loss_rise(rows: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]]) -> LossRise | None:
    """From the lowest earlier evaluation to the last one; None for fewer than two, or without the losses of pairs.

    `rows` are those of `HeldOutStep`, in the order of steps, `metrics` the lines of metrics.jsonl. With l(p) the loss
    of pair p, the interval of mean(l_last - l_lowest) is Student's, its error divided by the number of earlier
    evaluations.
    """
    known = [row for row in rows if row.get(h.PAIR_LOSSES.name) is not None]
    if len(known) < 2 or known[-1] is not rows[-1]:
        return None
    *earlier, last = known
    lowest = min(earlier, key=lambda row: float(np.mean(row[h.PAIR_LOSSES.name])))
    then, now = (np.asarray(row[h.PAIR_LOSSES.name], dtype=np.float64) for row in (lowest, last))
    if len(then) != len(now) or len(now) < 2:
        return None
    return LossRise(
        step=lowest[h.STEP.name],
        pairs=len(now),
        then=float(then.mean()),
        now=float(now.mean()),
        rise=_rise(now - then, ERROR / len(earlier)),
        training_change=_training_change(metrics, lowest[h.STEP.name]),
    )


def _rise(gaps: np.ndarray[Any, np.dtype[np.float64]], error: float) -> Interval:
    mean = float(gaps.mean())
    half = float(stats.t.ppf(1 - error / 2, len(gaps) - 1)) * float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    return Interval(mean, mean - half, mean + half)


def _training_change(metrics: Sequence[Mapping[str, Any]], step: int) -> Interval | None:
    losses = [(line[STEP], line[LOSS]) for line in metrics if line.get(LOSS) is not None]
    width = max(2, last_tenth(len(losses)))
    begin = [loss for at, loss in losses if at <= max(step, width)][-width:]
    end = [loss for at, loss in losses[-width:] if at > max(step, width)]
    if min(len(begin), len(end)) < width:
        return None
    return difference(Interval(*mean_interval(end)), Interval(*mean_interval(begin)))
