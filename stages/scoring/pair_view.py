"""Scores per pair, joined from the store."""

from __future__ import annotations

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.margins import ref_margin
from scoreonce.schemas.tables import ReferencePair
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.store.store import ReferenceStore


def pair_view(paths: RunPaths, split: Split, store: ReferenceStore) -> pl.DataFrame:
    """One row of `ReferencePair` for each distinct pair of a split, in the order of the pairs.

    What only `score` computes, on request, is null. Raises `InputError` where the store is damaged, or lacks a
    completion.
    """
    columns = ["pair_id", "chosen_id", "rejected_id", "chosen_len", "rejected_len"]
    pairs = read_frame(paths.pairs(split), columns).unique("pair_id", keep="first", maintain_order=True)
    ids = pl.concat([pairs.get_column(f"{side}_id").drop_nulls().alias("id") for side in ("chosen", "rejected")])
    scores = store.read(ids, ["logps", "entropy", "top1_hits"])
    for side in ("chosen", "rejected"):
        named = scores.select(
            pl.col("completion_id").alias(f"{side}_id"), pl.exclude("completion_id").name.prefix(f"ref_{side}_")
        )
        pairs = pairs.join(named, on=f"{side}_id", how="left", maintain_order="left")
    unscored = [
        pl.col(f"{side}_id").is_not_null() & pl.col(f"ref_{side}_logps").is_null() for side in ("chosen", "rejected")
    ]
    missing = pairs.filter(pl.any_horizontal(unscored)).height
    if missing:
        raise InputError(
            "The reference store lacks completions of these pairs.",
            found=f"{missing:,} of {pairs.height:,} pairs of {split} without scores",
            where=store.place,
            fix="Run `scoreonce score`.",
        )
    whole = pairs.with_columns(ref_margin=ref_margin())
    types = ReferencePair.create_empty().schema
    on_request = [pl.lit(None, dtype).alias(name) for name, dtype in types.items() if name not in whole.columns]
    return ReferencePair.validate(whole.with_columns(on_request).select(ReferencePair.column_names()), cast=True)
