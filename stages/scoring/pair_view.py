"""Scores per pair, joined from the store.

In two passes over the ids of the pairs, so that of the pairs only some are in memory at a time: one finds the files of
the store that are needed, whose columns are then read once; the other joins. That takes 28 bytes a completion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.margins import ref_margin
from scoreonce.schemas.tables import ReferencePair
from scoreonce.stages.common.frames import frame_batches, frame_of
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.store.index import Ids, StaleIndexError, packed_column
from scoreonce.stages.store.layer import THREADS
from scoreonce.stages.store.store import ReferenceStore

SIDES = ("chosen", "rejected")
_SCORES = {"logps": np.float64, "entropy": np.float64, "top1_hits": np.int32}
Made = TypeVar("Made")


def pair_view(paths: RunPaths, split: Split, store: ReferenceStore) -> pl.DataFrame:
    """All of `pair_views` in one frame."""
    return with_sound_index(store, lambda: pl.concat(pair_views(paths, split, store)))


def with_sound_index(store: ReferenceStore, work: Callable[[], Made]) -> Made:
    """What `work` makes; once more with a new index where that of the scores turns out to be damaged."""
    try:
        return work()
    except StaleIndexError:
        store.scores.rebuilt_index()
        return work()


def pair_views(paths: RunPaths, split: Split, store: ReferenceStore) -> Iterator[pl.DataFrame]:
    """One row of `ReferencePair` for each distinct pair of a split, in the order of the pairs, in several frames.

    What only `score` computes, on request, is null. Raises `InputError` where the store is damaged, or lacks a
    completion, and `StaleIndexError` where its index does not fit its files.
    """

    def batches(names: list[str]) -> Iterator[pl.DataFrame]:
        return frame_batches(paths.pairs(split), names)

    distinct = first_occurrences(np.concatenate([packed_column(each["pair_id"]) for each in batches(["pair_id"])]))
    names = [f"{side}_id" for side in SIDES]
    scores = Scores(store, (packed_column(ids.drop_nulls()) for each in batches(names) for ids in each.iter_columns()))
    first, missing = 0, 0
    for batch in batches(["pair_id", *names, *(f"{side}_len" for side in SIDES)]):
        pairs = batch.filter(pl.Series(distinct[first : first + batch.height]))
        first += batch.height
        joined = pairs.hstack([column for side in SIDES for column in scores.of(pairs[f"{side}_id"], side)])
        unscored = [pl.col(f"{side}_id").is_not_null() & pl.col(f"ref_{side}_logps").is_null() for side in SIDES]
        missing += joined.filter(pl.any_horizontal(unscored)).height
        if not missing:
            yield _validated(joined)
    if missing:
        raise InputError(
            "The reference store lacks completions of these pairs.",
            found=f"{missing:,} of {distinct.sum():,} pairs of {split} without scores",
            where=store.place,
            fix="Run `scoreonce score`.",
        )


def first_occurrences(ids: Ids) -> npt.NDArray[np.bool_]:
    """`(ids,)` whether each is the first of its kind."""
    first = np.ones(len(ids), np.bool_)
    if len(ids):
        halves = ids.view(np.uint64).reshape(-1, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal ids the first comes first
        in_order = halves[order]
        first[order[1:][(in_order[1:] == in_order[:-1]).all(1)]] = False
    return first


def _validated(joined: pl.DataFrame) -> pl.DataFrame:
    whole = joined.with_columns(ref_margin=ref_margin())
    types = ReferencePair.create_empty().schema
    on_request = [pl.lit(None, dtype).alias(name) for name, dtype in types.items() if name not in whole.columns]
    return ReferencePair.validate(whole.with_columns(on_request).select(ReferencePair.column_names()), cast=True)


class Scores:
    """The columns of the files that hold `wanted` completions, by place in the store's index."""

    def __init__(self, store: ReferenceStore, wanted: Iterable[Ids]) -> None:
        self._index = store.scores.index()
        needed = np.zeros(len(self._index.files), np.bool_)
        for ids in wanted:
            places = self._index.locate(ids)
            needed[places.file[places.found]] = True
        rows = [file.rows if read else 0 for file, read in zip(self._index.files, needed, strict=True)]
        self._starts = np.concatenate(([0], np.cumsum(rows, dtype=np.int64)))
        self._columns = {name: np.empty(self._starts[-1], kind) for name, kind in _SCORES.items()}
        # Half of an id, to see whether the index leads to the right row.
        self._halves = np.empty(self._starts[-1], np.uint64)

        def read(number: int) -> None:
            shard = store.scores.path_of(self._index.files[number])
            frame = frame_of(store.table(shard, ["completion_id", *_SCORES]))
            own = slice(self._starts[number], self._starts[number + 1])
            self._halves[own] = _halves(packed_column(frame["completion_id"]))
            for name, values in self._columns.items():
                values[own] = frame[name].to_numpy()

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(read, np.flatnonzero(needed).tolist()))

    def of(self, ids: pl.Series, side: str) -> list[pl.Series]:
        """The columns of the completions of one side; null where there is none, or it is not stored."""
        there, wanted = ids.is_not_null().to_numpy(), packed_column(ids.drop_nulls())
        found, file, row = self._index.locate(wanted)
        at = np.where(found, self._starts[file] + row, 0) if found.any() else np.zeros(len(wanted), np.int64)
        if found.any() and (self._halves[at] != _halves(wanted))[found].any():
            raise StaleIndexError
        stored, places = there.copy(), np.zeros(len(ids), np.int64)
        stored[there], places[there] = found, at
        mask = pl.Series(stored)
        made = []
        for name, values in self._columns.items():
            taken = values[places] if len(values) else np.zeros(len(ids), values.dtype)
            column = pl.select(pl.when(mask).then(pl.Series(taken))).to_series()
            made.append(column.alias(f"ref_{side}_{name}"))
        return made


def _halves(ids: Ids) -> npt.NDArray[np.uint64]:
    halves: npt.NDArray[np.uint64] = ids.view(np.uint64)[::2]
    return halves
