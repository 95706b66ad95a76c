"""Which evaluation of a training run is the best, and when patience ends the run: functions of its rows alone.

A row is one of `schemas.tables.HeldOutStep`, in the order of the steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scoreonce.schemas import held_out as h

Row = Mapping[str, Any]
METRICS = (h.LOSS.name, h.ACCURACY.name, h.MARGIN.name)
LOWER_IS_BETTER = frozenset({h.LOSS.name})


def best_row(rows: Sequence[Row], metric: str) -> Row | None:
    """The row with the best `metric`, the first of equals; None where none has a finite one.

    The start of the training, step 0, is what others are compared with and never the best itself.
    """
    sign = -1 if metric in LOWER_IS_BETTER else 1
    known = [row for row in rows if row["step"] > 0 and row[metric] is not None and math.isfinite(row[metric])]
    return max(known, key=lambda row: sign * row[metric], default=None)  # max keeps the first of equals


def is_over(rows: Sequence[Row], metric: str, patience: int | None) -> bool:
    """Whether the last `patience` evaluations, or more, were none of them better than the best before them."""
    if patience is None:
        return False
    best = best_row(rows, metric)
    since = 0 if best is None else best["step"]
    return sum(row["step"] > since for row in rows) >= patience


def beats_start(rows: Sequence[Row], metric: str) -> bool | None:
    """Whether the best row is better than step 0; None where one of the two is not known."""
    best, start = best_row(rows, metric), next((row for row in rows if row["step"] == 0), None)
    if best is None or start is None or start[metric] is None:
        return None
    return bool(best[metric] < start[metric] if metric in LOWER_IS_BETTER else best[metric] > start[metric])
