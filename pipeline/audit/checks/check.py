"""A check: a fact about a pair that a person should know of, as an expression over the audit's columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

Severity = Literal["fail", "flag", "info"]
SEVERITIES: tuple[Severity, ...] = ("fail", "flag", "info")


@dataclass(frozen=True)
class Check:
    """`where` is true for the pairs it concerns; a pair that it cannot judge (null) is not concerned.

    fail: nothing should be trained on this before somebody has looked; flag: often a mistake; info: good to know.
    """

    name: str  # also the column's
    severity: Severity
    title: str
    meaning: str
    where: pl.Expr
    fix: str = ""  # empty: the clause that leaves these pairs out of training
    note: pl.Expr | None = None  # what to say about one pair, as text
    other: str | None = None  # the column with the pair_id that it is about besides

    @property
    def advice(self) -> str:
        """What one can do."""
        return self.fix or f'[train] drop = ["{self.name}"] leaves these pairs out of training.'

    def judgeable(self, columns: Iterable[str]) -> bool:
        """Whether every column that it reads is there."""
        return set(self.where.meta.root_names()) <= set(columns)


def judged(pairs: pl.LazyFrame, checks: Sequence[Check]) -> pl.LazyFrame:
    """The pairs with one boolean column per check, never null."""
    return pairs.with_columns(check.where.fill_null(value=False).alias(check.name) for check in checks)


def shares(fraction: pl.Expr) -> pl.Expr:
    """A share in percent, for notes."""
    return (fraction * 100).round(1).cast(pl.String) + "%"
