"""A check: a property of a pair to report, as an expression over the audit's columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

Severity = Literal["fail", "flag", "info"]
SEVERITIES: tuple[Severity, ...] = ("fail", "flag", "info")


@dataclass(frozen=True)
class Check:
    """`where` is true for the affected pairs; null, where it cannot tell, counts as false.

    fail: an error, to be fixed before training; flag: a warning, often a mistake; info: a note.
    """

    name: str  # also the column's
    severity: Severity
    title: str
    meaning: str
    where: pl.Expr
    fix: str = ""  # empty: how to leave these pairs out of training
    note: pl.Expr | None = None  # a remark on one pair, as text
    other: str | None = None  # the column with the pair_id of the other pair involved
    rare: bool = False  # what half of all pairs have is no finding

    @property
    def advice(self) -> str:
        """What to do about it."""
        return self.fix or f'[train] drop = ["{self.name}"] leaves these pairs out of training.'

    def judgeable(self, columns: Iterable[str]) -> bool:
        """Whether all columns that it reads exist."""
        return set(self.where.meta.root_names()) <= set(columns)


def judged(pairs: pl.LazyFrame, checks: Sequence[Check]) -> pl.LazyFrame:
    """The pairs with one boolean column per check, never null.

    Whether what is `rare` is so is found out first: an expression over all pairs beside those over one would keep all
    columns of all pairs in memory.
    """
    rare = {check.name: check.where.mean() for check in checks if check.rare}
    found = pairs.select(**rare).collect(engine="streaming").row(0, named=True) if rare else {}
    common = {name for name, share in found.items() if share is not None and share >= 0.5}
    where = {check.name: pl.lit(value=False) if check.name in common else check.where for check in checks}
    return pairs.with_columns(each.fill_null(value=False).alias(name) for name, each in where.items())


def shares(fraction: pl.Expr) -> pl.Expr:
    """A share in percent, for notes."""
    return (fraction * 100).round(1).cast(pl.String) + "%"
