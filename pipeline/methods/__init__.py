"""Preference-optimisation methods, one file per paper, as chains of pure functions on named columns.

`METHODS` has the named ones, `resolve` composes others, `Method.run` runs one on a step's columns, `apply` does so on
a dict of tensors in a notebook, `load_file` adds yours. Read `registry.py` for what a piece is, `dpo.py` and
`beta_dpo.py` for two examples.
"""

# Importing a paper's file registers its method; the order here is the order of the table.
from scoreonce.pipeline.methods import (  # noqa: F401, I001
    dpo, beta_dpo, alpha_dpo, epsilon_dpo, minor,
    robust, ipo, hinge, rso, odpo, r_dpo, ld_dpo, wpo, dpop, f_dpo, chi_po, sppo, cal_dpo, apo, exo, nca, bco, aot,
    discopop, simpo, repo, slic, orpo, cpo, kto, tdpo, sparse_po, sft, mpo,
)
from scoreonce.pipeline.methods.catalogue import ALIASES, METHODS, method, resolve
from scoreonce.pipeline.methods.chain import Method, Outcome, Paper
from scoreonce.pipeline.methods.method_file import load_file
from scoreonce.pipeline.methods.plain_columns import apply, exponential_draws
from scoreonce.pipeline.methods.refused import REFUSED
from scoreonce.pipeline.methods.registry import calibration, derived, objective, rewards, selection, statistic
from scoreonce.pipeline.methods.table import TableRow, table

__all__ = ["ALIASES", "METHODS", "REFUSED", "Method", "Outcome", "Paper", "TableRow", "apply", "calibration", "derived",
           "exponential_draws", "load_file", "method", "objective", "resolve", "rewards", "selection", "statistic",
           "table"]
