"""Columns of the same pairs from two files: row beside row where they can be, joined by pair_id where not."""

from __future__ import annotations

import polars as pl


def same_ids(left: pl.LazyFrame, right: pl.LazyFrame) -> bool:
    """Whether two frames list the same pair_ids in the same order.

    `score` lists the pairs as `prepare` does, unless one stands twice. Then they need no join, which at ten million
    pairs takes more time and memory than all else.
    """
    rows = pl.collect_all([frame.select(pl.len()) for frame in (left, right)])
    if rows[0].item() != rows[1].item():  # such frames cannot stand side by side
        return False
    ids = pl.concat([left.select("pair_id"), right.select(other="pair_id")], how="horizontal")
    return bool(ids.select((pl.col("pair_id") == pl.col("other")).all()).collect(engine="streaming").item())


def beside(pairs: pl.LazyFrame, more: pl.LazyFrame) -> pl.LazyFrame:
    """The pairs with those columns of `more`, which has the same rows, that they lack."""
    have = pairs.collect_schema().names()
    new = [name for name in more.collect_schema().names() if name not in have]
    return pl.concat([pairs, more.select(new)], how="horizontal") if new else pairs


def joined(pairs: pl.LazyFrame, more: pl.LazyFrame) -> pl.LazyFrame:
    """The same by pair_id, null for pairs that `more` does not have; what it has twice counts once."""
    have = pairs.collect_schema().names()
    new = [name for name in more.collect_schema().names() if name not in have]
    distinct = more.select("pair_id", *new).unique("pair_id")
    return pairs.join(distinct, on="pair_id", how="left", maintain_order="left") if new else pairs
