"""Log-ratios and margins as polars expressions; `pipeline.methods.pieces.derived` has the same formulas for tensors.

Each is float64, in nats, summed over the completions, without beta; null where a side is missing.
"""

from __future__ import annotations

from typing import Literal

import polars as pl

from scoreonce.schemas import columns as c

POLICY = {"chosen": c.POLICY_CHOSEN_LOGPS, "rejected": c.POLICY_REJECTED_LOGPS}
REFERENCE = {"chosen": c.REF_CHOSEN_LOGPS, "rejected": c.REF_REJECTED_LOGPS}


def logratios(side: Literal["chosen", "rejected"]) -> pl.Expr:
    """log pi - log ref of one side's completion."""
    return pl.col(POLICY[side].name) - pl.col(REFERENCE[side].name)


def margin() -> pl.Expr:
    """Chosen minus rejected log-ratio."""
    return logratios("chosen") - logratios("rejected")


def differences() -> dict[str, pl.Expr]:
    """Both log-ratios and their margin, by the names of their columns."""
    return {
        c.CHOSEN_LOGRATIOS.name: logratios("chosen"),
        c.REJECTED_LOGRATIOS.name: logratios("rejected"),
        c.MARGIN.name: margin(),
    }


def ref_margin() -> pl.Expr:
    """Chosen minus rejected log-prob under the reference."""
    return pl.col(REFERENCE["chosen"].name) - pl.col(REFERENCE["rejected"].name)
