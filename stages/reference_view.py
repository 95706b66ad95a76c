"""The reference columns of each pair: what every run has, and what `score` was asked for besides."""

from __future__ import annotations

import polars as pl

from scoreonce.pipeline.errors import InputError
from scoreonce.schemas.tables import ReferencePair
from scoreonce.stages.layout import Layout, Split
from scoreonce.stages.mismatch import mismatched
from scoreonce.stages.scoring import Job, pair_view
from scoreonce.stages.store import Store


def reference_view(job: Job, split: Split) -> pl.DataFrame:
    """One row of `ReferencePair` for each distinct pair of a split, in the order of the pairs.

    Raises `InputError` where the store is damaged, or lacks a completion.
    """
    view = pair_view(job.layout, split, job.store)
    if job.score.mismatched and not view.is_empty():
        view = view.pipe(_with_mismatched, job.layout, split, job.store)
    return ReferencePair.validate(view.select(ReferencePair.column_names()), cast=True)


def _with_mismatched(view: pl.DataFrame, layout: Layout, split: Split, store: Store) -> pl.DataFrame:
    pair_ids = pl.read_parquet(layout.pairs(split), columns=["pair_id"])
    met = pair_ids.hstack(mismatched(layout, split)).unique("pair_id").drop("donor")
    scores = store.read(met.get_column("kl_id"), ["logps"]).rename({"completion_id": "kl_id", "logps": "ref_kl_logps"})
    scored = met.join(scores, on="kl_id")
    if scored.height < met.height:
        raise InputError(
            "The reference store lacks mismatched completions of these pairs.",
            found=f"{met.height - scored.height:,} of {met.height:,} pairs of {split} without them",
            where=str(store.folder),
            fix="Run `scoreonce score`.",
        )
    return view.drop("kl_id", "kl_len", "ref_kl_logps").join(scored, on="pair_id", maintain_order="left")
