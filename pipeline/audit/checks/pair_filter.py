"""Which pairs to keep: those that no named finding concerns, and for which a condition in SQL holds.

    drop = ["duplicate_pair", "contradictory_pair"]
    where = "score_gap > 1 AND source <> 'web'"

A condition is one expression over the columns of pairs, reference and audit, parsed by polars. Findings are boolean
columns, so their names are conditions too: `NOT duplicate_pair`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.schemas.errors import InputError, did_you_mean

_WHERE, _DROP, _HOLDS = "train.where", "train.drop", "holds:where"
_EXAMPLE = 'Write a condition such as where = "NOT duplicate_pair AND chosen_len < 512".'


def condition(where: str, columns: Sequence[str]) -> tuple[pl.Expr, list[str]]:
    """The condition as an expression and the columns that it reads.

    Raises `InputError` where it is not one SQL expression, or reads a column that is not among `columns`.
    """
    try:
        expression = pl.sql_expr(where)
        reads = list(dict.fromkeys(expression.meta.root_names()))
    except pl.exceptions.PolarsError as error:
        raise InputError(
            "The condition is not an SQL expression that polars knows.",
            found=f"{where!r}: {_first_line(error)}",
            where=_WHERE,
            fix=_EXAMPLE,
        ) from None
    unknown = [name for name in reads if name not in columns]
    if unknown:
        raise InputError(
            f"The condition reads something that is no column: {', '.join(unknown)}.",
            found=f"{where!r}.{did_you_mean(unknown[0], list(columns))}",
            where=_WHERE,
            fix=f"Columns here: {', '.join(columns)}. Findings are columns once `scoreonce audit` has run; text needs "
            "single quotes.",
        )
    return expression, reads


def kept(pairs: pl.LazyFrame, expression: pl.Expr, where: str) -> npt.NDArray[np.int64]:
    """The numbers, in order, of the pairs for which the condition holds; where it is null it does not.

    Raises `InputError` where it cannot be evaluated, is not true or false, or holds for no pair.
    """
    try:
        # With the other columns, so that a condition without any, such as TRUE, has a value per pair too.
        holds = pairs.with_columns(expression.alias(_HOLDS)).select(_HOLDS).collect(engine="streaming")[_HOLDS]
    except pl.exceptions.PolarsError as error:
        raise InputError(
            "The condition cannot be evaluated.", found=f"{where!r}: {_first_line(error)}", where=_WHERE, fix=_EXAMPLE
        ) from None
    if holds.dtype != pl.Boolean:
        raise InputError(
            "The condition is neither true nor false.", found=f"{where!r} is {holds.dtype}", where=_WHERE, fix=_EXAMPLE
        )
    numbers = holds.fill_null(value=False).arg_true().cast(pl.Int64).to_numpy()
    if not len(numbers):
        raise InputError(
            "The condition holds for no training pair.",
            found=f"{where!r}: 0 of {holds.len():,} pairs",
            where=_WHERE,
            fix="Widen it, or leave it out.",
        )
    return numbers


def remaining(pairs: pl.LazyFrame, drop: Sequence[str], findings: Sequence[str]) -> npt.NDArray[np.int64]:
    """The numbers, in order, of the pairs that none of the findings in `drop` concern; `findings` names all there are.

    Raises `InputError` for a name that is no finding, and where no pair is left.
    """
    unknown = [name for name in drop if name not in findings]
    if unknown:
        raise InputError(
            f"The audit has no such finding: {', '.join(unknown)}.",
            found=f"drop = {list(drop)}.{did_you_mean(unknown[0], list(findings))}",
            where=_DROP,
            fix=f"Findings here: {', '.join(findings)}. Those of the reference need `scoreonce audit` after `scoreonce "
            "score`.",
        )
    concerned = pairs.select(pl.any_horizontal(pl.col(list(drop)).fill_null(value=False)).alias(_HOLDS))
    numbers = (~concerned.collect(engine="streaming")[_HOLDS]).arg_true().cast(pl.Int64).to_numpy()
    if not len(numbers):
        raise InputError(
            "Every training pair has one of the findings to drop.",
            found=f"drop = {list(drop)}",
            where=_DROP,
            fix="Drop fewer: the audit's page says what each concerns.",
        )
    return numbers


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
