"""The reference columns of each pair: what every run has, and what `score` was asked for besides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import ReferencePair
from scoreonce.stages.common.files import atomic, parquet_options
from scoreonce.stages.common.frames import frame_batches
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.data.mismatched import mismatched_completions
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.pair_view import Scores, first_occurrences, pair_views, with_sound_index
from scoreonce.stages.store.codecs import POOLED
from scoreonce.stages.store.index import packed_column
from scoreonce.stages.store.store import ReferenceStore

if TYPE_CHECKING:
    from scoreonce.stages.store.tensor_rows import TensorRows

PAIRS_AT_ONCE = 2048
IDS_AT_ONCE = 1 << 17
ROWS_PER_GROUP = 4096


def write_reference_table(job: ScoringJob, split: Split) -> int:
    """Write the reference columns of a split, and return how many distinct pairs it has.

    Raises `InputError` where the store is damaged, or lacks a completion; then nothing is written.
    """
    return with_sound_index(job.store, lambda: _write(job.paths.reference(split), reference_views(job, split)))


def _write(path: Path, views: Iterator[pl.DataFrame]) -> int:
    rows = 0
    with atomic(path) as temporary, ExitStack() as opened:
        writer: pq.ParquetWriter | None = None
        for view in _in_groups(views):
            table = view.to_arrow(compat_level=pl.CompatLevel.oldest())
            if writer is None:
                options = parquet_options(table.schema)
                writer = opened.enter_context(pq.ParquetWriter(temporary, table.schema, **options))
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            rows += view.height
    return rows


def _in_groups(views: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same rows in frames of whole row groups; the last has the rest, and is there if it is empty too."""
    waiting: pl.DataFrame | None = None
    for view in views:
        waiting = view if waiting is None else pl.concat([waiting, view])
        if whole := waiting.height // ROWS_PER_GROUP * ROWS_PER_GROUP:
            yield waiting[:whole]
            waiting = waiting[whole:]
    if waiting is not None:
        yield waiting


def reference_views(job: ScoringJob, split: Split) -> Iterator[pl.DataFrame]:
    """One row of `ReferencePair` for each distinct pair of a split, in the order of the pairs, in several frames.

    Raises `InputError` where the store is damaged, or lacks a completion, and `StaleIndexError` as `pair_views` does.
    """
    views = pair_views(job.paths, split, job.store)
    if job.score.mismatched and split == "train":
        views = _with_mismatched(views, job.paths, job.store)
    if job.score.embeddings:
        views = (_with_embeddings(view, job.store) for view in views)
    for view in views:
        yield ReferencePair.validate(view.select(ReferencePair.column_names()), cast=True)


def _with_mismatched(views: Iterator[pl.DataFrame], paths: RunPaths, store: ReferenceStore) -> Iterator[pl.DataFrame]:
    """The views of all distinct training pairs with the scores of their mismatched completions."""
    pair_ids = frame_batches(paths.pairs("train"), ["pair_id"])
    distinct = first_occurrences(np.concatenate([packed_column(batch["pair_id"]) for batch in pair_ids]))
    met = mismatched_completions(paths, "train").select("kl_id", "kl_len").filter(pl.Series(distinct))
    scores = Scores(store, (packed_column(some["kl_id"]) for some in met.iter_slices(IDS_AT_ONCE)))
    place, missing = 0, 0
    for view in views:
        own = met[place : place + view.height]
        place += view.height
        logps, *_ = scores.of(own["kl_id"], "kl")
        missing += logps.null_count()
        if not missing:
            yield view.with_columns(*own, logps)
    if missing:
        raise InputError(
            "The reference store lacks mismatched completions of these pairs.",
            found=f"{missing:,} of {met.height:,} pairs of train without them",
            where=store.place,
            fix="Run `scoreonce score`.",
        )


def _with_embeddings(view: pl.DataFrame, store: ReferenceStore) -> pl.DataFrame:
    """Adds the columns of `pair_embeddings`, null where a pair has only one completion."""
    from scoreonce.stages.store.tensor_rows import TensorRows  # torch, not needed without embeddings

    states = TensorRows(store.tensors(POOLED))
    pairs = view.filter(pl.col("chosen_id").is_not_null() & pl.col("rejected_id").is_not_null())
    missing = sum(states.missing(pairs[f"{side}_id"]) for side in ("chosen", "rejected"))
    if missing:
        raise InputError(
            "The reference store lacks pooled hidden states of these pairs.",
            found=f"{missing:,} completions without them",
            where=f"{store.place}/{POOLED}",
            fix="Run `scoreonce score` with score.embeddings = true.",
        )
    parts = [_embedded(part, states) for part in pairs.iter_slices(PAIRS_AT_ONCE)]
    if not parts:
        return view
    made = pl.concat(parts)
    return view.drop(set(made.columns) - {"pair_id"}).join(made, on="pair_id", how="left", maintain_order="left")


def _embedded(pairs: pl.DataFrame, states: TensorRows) -> pl.DataFrame:
    import torch

    from scoreonce.pipeline.forward.embeddings import pair_embeddings

    sums = (states.read(pairs[f"{side}_id"].to_list(), "hidden_sum") for side in ("chosen", "rejected"))
    lengths = (torch.tensor(pairs[f"{side}_len"].to_list()) for side in ("chosen", "rejected"))
    made = pair_embeddings(*sums, *lengths)
    names = ("ref_embedding_similarity", "ref_ches", "ref_ln_ches")
    return pairs.select("pair_id", *(pl.Series(name, column.numpy()) for name, column in zip(names, made, strict=True)))
