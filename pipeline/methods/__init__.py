"""Preference-optimisation methods, one file per paper, as chains of pure functions on named columns.

`METHODS` has the named ones, `resolve` composes others, `Method.run` runs one on a step's columns, `apply` does so on
a dict of tensors in a notebook. Read `registry.py` for what a piece is, `dpo.py` and `beta_dpo.py` for two examples.
"""

# Importing a paper's file registers its method; the order here is the order of the table.
from scoreonce.pipeline.methods import dpo, ipo, hinge, simpo, beta_dpo, alpha_dpo, minor, sft  # noqa: F401, I001
from scoreonce.pipeline.methods.catalogue import METHODS, TableRow, resolve, table
from scoreonce.pipeline.methods.chain import Method, Outcome, Paper
from scoreonce.pipeline.methods.plain_columns import apply, exponential_draws

__all__ = ["METHODS", "Method", "Outcome", "Paper", "TableRow", "apply", "exponential_draws", "resolve", "table"]
