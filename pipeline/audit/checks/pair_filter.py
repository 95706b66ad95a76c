"""Which pairs to keep: those without any of the named findings, for which an SQL condition holds.

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

from scoreonce.pipeline.audit.checks.sql_reads import refuse_files
from scoreonce.schemas.errors import InputError, did_you_mean, first_line

_WHERE, _DROP, _HOLDS = "train.where", "train.drop", "holds:where"
_EXAMPLE = 'Write a condition such as where = "NOT duplicate_pair AND chosen_len < 512".'


def condition(where: str, columns: Sequence[str]) -> tuple[pl.Expr, list[str]]:
    """The condition as an expression and the columns that it reads.

    Raises `InputError` if it is not one SQL expression, or reads a file or a column that is not among `columns`.
    """
    refuse_files(where, _WHERE)
    try:
        expression = pl.sql_expr(where)
        reads = list(dict.fromkeys(expression.meta.root_names()))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise InputError(
            "The condition is not a valid SQL expression.",
            found=f"{where!r}: {first_line(error)}",
            where=_WHERE,
            fix=_EXAMPLE,
        ) from None
    unknown = [name for name in reads if name not in columns]
    if unknown:
        raise _unknown(
            "column",
            unknown,
            where,
            columns,
            _WHERE,
            "Findings are columns once `scoreonce audit` has run; text needs single quotes.",
        )
    return expression, reads


def kept(pairs: pl.LazyFrame, expression: pl.Expr, where: str) -> npt.NDArray[np.int64]:
    """The indices, in order, of the pairs for which the condition is true; null counts as false.

    Raises `InputError` if it cannot be evaluated, is not boolean, or holds for no pair.
    """
    try:
        # With the other columns, so that a condition without any, such as TRUE, has a value per pair too.
        holds = pairs.with_columns(expression.alias(_HOLDS)).select(_HOLDS).collect(engine="streaming")[_HOLDS]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise InputError(
            "The condition cannot be evaluated.", found=f"{where!r}: {first_line(error)}", where=_WHERE, fix=_EXAMPLE
        ) from None
    if holds.dtype != pl.Boolean:
        raise InputError(
            "The condition is not boolean.", found=f"{where!r} is {holds.dtype}", where=_WHERE, fix=_EXAMPLE
        )
    numbers = holds.fill_null(value=False).arg_true().cast(pl.Int64).to_numpy()
    if not len(numbers):
        raise InputError(
            "The condition holds for no training pair.",
            found=f"{where!r}: 0 of {holds.len():,} pairs",
            where=_WHERE,
            fix="Relax or remove it.",
        )
    return numbers


def remaining(pairs: pl.LazyFrame, drop: Sequence[str], findings: Sequence[str]) -> npt.NDArray[np.int64]:
    """The indices, in order, of the pairs without any finding in `drop`; `findings` names all that exist.

    Raises `InputError` for a name that is not a finding, and if no pair is left.
    """
    unknown = [name for name in drop if name not in findings]
    if unknown:
        raise _unknown(
            "finding",
            unknown,
            ", ".join(drop),
            findings,
            _DROP,
            "Those of the reference need `scoreonce audit` after `scoreonce score`.",
        )
    affected = pairs.select(pl.any_horizontal(pl.col(list(drop)).fill_null(value=False)).alias(_HOLDS))
    numbers = (~affected.collect(engine="streaming")[_HOLDS]).arg_true().cast(pl.Int64).to_numpy()
    if not len(numbers):
        raise InputError(
            "Every training pair has one of the findings to drop.",
            found=f"drop = {list(drop)}",
            where=_DROP,
            fix="Drop fewer: the audit's page shows how many pairs each affects.",
        )
    return numbers


def _unknown(kind: str, unknown: list[str], given: str, known: Sequence[str], where: str, hint: str) -> InputError:
    """The error for names in a filter that are not among the known ones."""
    return InputError(
        f"There is no {kind} named {', '.join(unknown)}.",
        found=f"{given!r}.{did_you_mean(unknown[0], list(known))}",
        where=where,
        fix=f"The {kind}s are: {', '.join(known)}. {hint}",
    )
