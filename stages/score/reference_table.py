"""The reference columns of each pair: what every run has, and what `score` was asked for besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import ReferencePair
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.data.mismatched import mismatched_completions
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.pair_view import pair_view
from scoreonce.stages.store.store import POOLED, ReferenceStore

if TYPE_CHECKING:
    from scoreonce.stages.store.tensor_rows import TensorRows

PAIRS_AT_ONCE = 2048


def reference_view(job: ScoringJob, split: Split) -> pl.DataFrame:
    """One row of `ReferencePair` for each distinct pair of a split, in the order of the pairs.

    Raises `InputError` where the store is damaged, or lacks a completion.
    """
    view = pair_view(job.paths, split, job.store)
    if job.score.mismatched and split == "train":
        view = view.pipe(_with_mismatched, job.paths, split, job.store)
    if job.score.embeddings and not view.is_empty():
        view = view.pipe(_with_embeddings, job.store)
    return ReferencePair.validate(view.select(ReferencePair.column_names()), cast=True)


def _with_mismatched(view: pl.DataFrame, paths: RunPaths, split: Split, store: ReferenceStore) -> pl.DataFrame:
    pair_ids = pl.read_parquet(paths.pairs(split), columns=["pair_id"], glob=False)
    met = pair_ids.hstack(mismatched_completions(paths, split)).unique("pair_id").drop("donor", "column")
    scores = store.read(met.get_column("kl_id"), ["logps"]).rename({"completion_id": "kl_id", "logps": "ref_kl_logps"})
    scored = met.join(scores, on="kl_id")
    if scored.height < met.height:
        raise InputError(
            "The reference store lacks mismatched completions of these pairs.",
            found=f"{met.height - scored.height:,} of {met.height:,} pairs of {split} without them",
            where=store.place,
            fix="Run `scoreonce score`.",
        )
    return view.drop("kl_id", "kl_len", "ref_kl_logps").join(scored, on="pair_id", maintain_order="left")


def _with_embeddings(view: pl.DataFrame, store: ReferenceStore) -> pl.DataFrame:
    """Adds the columns of `pair_embeddings`, null where a pair has only one completion."""
    from scoreonce.stages.store.tensor_rows import TensorRows  # torch, not needed without embeddings

    states = TensorRows(store.tensors(POOLED))
    pairs = view.filter(pl.col("chosen_id").is_not_null() & pl.col("rejected_id").is_not_null())
    missing = states.missing([*pairs["chosen_id"], *pairs["rejected_id"]])
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
