"""Rows with equal values, by number: a row's group takes four bytes, its id as text fifty."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import chain

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.pipeline.audit.measures.ragged import Hashes
from scoreonce.pipeline.audit.measures.words import followed_by

Numbers = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
_SEEDS = (1, 2)  # 128 bits: two of 2 × 10⁸ different values are alike with a probability of 6 × 10⁻²³


@dataclass(frozen=True)
class Groups:
    """Rows that are equal in some columns; null equals null."""

    number: Numbers  # (rows,) of each row's group
    first: Numbers  # (groups,) the first row of each

    def sizes(self) -> npt.NDArray[np.uint32]:
        """(rows,) rows of each row's group."""
        return np.bincount(self.number, minlength=len(self.first)).astype(np.uint32)[self.number]

    def mixed(self, flag: Flags) -> Flags:
        """(rows,) whether some rows of each row's group have the flag and others do not."""
        with_flag, without = np.zeros(len(self.first), bool), np.zeros(len(self.first), bool)
        with_flag[self.number[flag]] = True
        without[self.number[~flag]] = True
        return (with_flag & without)[self.number]


def groups(pairs: pl.LazyFrame, *columns: str | pl.Expr) -> Groups:
    """The rows grouped by the values of some columns, compared by a digest of 128 bits."""
    one, other = _digests(pairs, columns)
    order = np.argsort(one)
    same = _as_before(one, order)
    equal = same & _as_before(other, order)
    if not np.array_equal(same, equal):  # 64 bits that are alike by chance may have other rows between equal ones
        order = np.lexsort([other, one])
        equal = _as_before(one, order) & _as_before(other, order)
    starts = ~equal
    number = np.empty(len(order), np.int32)
    number[order] = np.cumsum(starts, dtype=np.int32) - 1
    places = np.flatnonzero(starts)
    first = np.minimum.reduceat(order, places) if len(places) else order
    return Groups(number, first.astype(np.int32))


def _as_before(values: Hashes, order: npt.NDArray[np.int64]) -> Flags:
    """(rows,) whether each value, in that order, is the one before it."""
    in_order, same = values[order], np.zeros(len(order), bool)
    np.equal(in_order[1:], in_order[:-1], out=same[1:])
    return same


def _digests(pairs: pl.LazyFrame, columns: tuple[str | pl.Expr, ...]) -> list[Hashes]:
    """(rows,) for each seed. Texts are hashed as they are read and never in memory together."""
    values = [pl.col(column) if isinstance(column, str) else column for column in columns]
    hashes = [[value.hash(seed).alias(f"{seed}-{place}") for place, value in enumerate(values)] for seed in _SEEDS]
    found = pairs.select(chain.from_iterable(hashes)).collect(engine="streaming")
    return [
        reduce(followed_by, (found[f"{seed}-{place}"].to_numpy() for place in range(len(values)))) for seed in _SEEDS
    ]
