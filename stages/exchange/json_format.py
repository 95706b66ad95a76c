"""JSON lines for programs that no format is known of: a pair on each line, on request with what is known per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.stages.exchange.scored_pairs import IDS, SUMS, Batch
from scoreonce.stages.store.store import ReferenceStore

_NAMES = ["pair_id", "row", "source", "prompt", "chosen", "rejected", "chosen_len", "rejected_len", *SUMS]


def json_rows(batch: Batch, store: ReferenceStore | None) -> list[dict[str, Any]]:
    """The row of each pair; with a `store`, token ids and the log-prob of each completion token too.

    Raises `InputError` where the store is damaged or lacks a completion.
    """
    rows = batch.pairs.select(_NAMES).to_dicts()
    if store is None:
        return rows
    every: dict[str, Sequence[Any]] = {name: batch.ids(name) for name in IDS}
    for side in ("chosen", "rejected"):
        every[f"ref_{side}_token_logps"] = _token_logps(batch.pairs[f"{side}_id"], store)
    for place, row in enumerate(rows):
        row.update((name, values[place]) for name, values in every.items())
    return rows


def _token_logps(ids: pl.Series, store: ReferenceStore) -> list[list[float] | None]:
    found = store.read(ids, ["token_logps"])
    joined = ids.to_frame("completion_id").join(found, on="completion_id", how="left", maintain_order="left")
    missing = joined.filter(pl.col("completion_id").is_not_null() & pl.col("token_logps").is_null()).height
    if missing:
        raise InputError(
            "The reference store lacks completions of these pairs.",
            found=f"{missing:,} completions without scores",
            where=store.place,
            fix="Run `scoreonce score`.",
        )
    return joined["token_logps"].to_list()
