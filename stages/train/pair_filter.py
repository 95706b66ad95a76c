"""`train.drop` and `train.where`: the training pairs that no named finding concerns and for which a condition holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.pipeline.audit.checks.pair_filter import condition, kept, remaining
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.pair_tables import current_audit, joined_pairs, read_audit


def places(paths: RunPaths, where: str | None, drop: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """The rows of the training pairs to keep, in order; None where nothing selects.

    Raises `InputError` for a condition or a finding that is none, a finding without an audit of these pairs, and where
    no pair is left.
    """
    if where is None and not drop:
        return None
    pairs = joined_pairs(paths, ("train",))
    rows = [_where(pairs, where)] if where is not None else []
    if drop:
        rows.append(remaining(pairs, drop, _findings(paths)))
    both = rows[0] if len(rows) == 1 else np.intersect1d(rows[0], rows[1], assume_unique=True)
    if not len(both):
        raise InputError(
            "The condition holds only for pairs that are dropped.",
            found=f"where = {where!r}, drop = {list(drop)}: no training pair is left",
            where="train.where and train.drop",
            fix="Widen the condition, or drop fewer.",
        )
    return both


def _where(pairs: pl.LazyFrame, where: str) -> npt.NDArray[np.int64]:
    expression, reads = condition(where, pairs.collect_schema().names())
    return kept(pairs.select(reads or ["pair_id"]), expression, where)


def _findings(paths: RunPaths) -> list[str]:
    if not paths.audit_summary.is_file():
        raise _no_audit(paths)
    _, document = read_audit(paths)  # an error where another version wrote it
    if current_audit(paths) is None:
        raise _no_audit(paths)
    return [finding["name"] for finding in document["findings"]]


def _no_audit(paths: RunPaths) -> InputError:
    return InputError(
        "Pairs are to be dropped by findings of an audit, and there is no audit of these pairs.",
        found=f"no audit of the prepared pairs in {paths.audit}",
        where="train.drop",
        fix="Run `scoreonce audit` with this run file first.",
    )
