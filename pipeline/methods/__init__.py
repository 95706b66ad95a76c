"""Preference-optimisation methods as chains of pure functions on named columns; one file per paper in `papers/`.

In: the columns of one optimizer step. Out: a loss, a weight and what is logged, per pair. `METHODS` has the named
methods, `resolve` composes others, `Method.run` runs one on a step's columns, `apply` does so on a dict of tensors in a
notebook. Read `pieces/registry.py` for what a piece is, `papers/dpo.py` and `papers/beta_dpo.py` for two examples.
"""

from scoreonce.pipeline.methods import papers  # noqa: F401  # registers the methods
from scoreonce.pipeline.methods.catalogue import ALIASES, METHODS, accepted, method, resolve
from scoreonce.pipeline.methods.chain import Method, Outcome, Paper
from scoreonce.pipeline.methods.pieces.registry import (
    calibration,
    derived,
    objective,
    reduction,
    rewards,
    selection,
    statistic,
)
from scoreonce.pipeline.methods.plain_tensors import apply, exponential_draws
from scoreonce.pipeline.methods.refused import REFUSED
from scoreonce.pipeline.methods.table import TableRow, table

__all__ = [
    "ALIASES",
    "METHODS",
    "REFUSED",
    "Method",
    "Outcome",
    "Paper",
    "TableRow",
    "accepted",
    "apply",
    "calibration",
    "derived",
    "exponential_draws",
    "method",
    "objective",
    "reduction",
    "resolve",
    "rewards",
    "selection",
    "statistic",
    "table",
]
