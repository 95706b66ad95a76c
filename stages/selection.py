"""`train.where`: the training pairs for which a condition in SQL holds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scoreonce.pipeline.audit.selection import condition, kept
from scoreonce.stages.layout import Layout
from scoreonce.stages.wide_pairs import wide_pairs


def places(layout: Layout, where: str) -> npt.NDArray[np.int64]:
    """The rows of the training pairs to keep, in order. Raises `InputError` for a condition that keeps none."""
    pairs = wide_pairs(layout, ("train",))
    expression, reads = condition(where, pairs.collect_schema().names())
    return kept(pairs.select(reads or ["pair_id"]), expression, where)
