"""Pairs with everything that is known of them: their own columns, the reference's, and those of the audit."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from scoreonce.stages.files import read_json, sha256
from scoreonce.stages.layout import SPLITS, Layout, Split


def wide_pairs(layout: Layout, splits: Sequence[Split] = SPLITS) -> pl.LazyFrame:
    """The pairs of the splits, in the order of their files, with a `split` column; read only as far as it is used.

    Reference columns are null for pairs that were not scored since, and audit columns are there only where the audit
    is of these very pairs.
    """
    pairs = pl.concat(
        [pl.scan_parquet(layout.pairs(split)).with_columns(split=pl.lit(split, pl.String)) for split in splits]
    )
    if audit_is_current(layout):
        pairs = _beside(pairs, pl.scan_parquet(layout.audit_pairs).filter(pl.col("split").is_in(list(splits))))
    return _with_reference(pairs, layout)


def audit_is_current(layout: Layout) -> bool:
    """Whether pairs.parquet of the audit was made of the pairs that are there."""
    try:
        made_of = read_json(layout.audit / "measures.json")["pairs"]
        return layout.audit_pairs.is_file() and made_of == sha256(layout.pairs_manifest)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _beside(pairs: pl.LazyFrame, audited: pl.LazyFrame) -> pl.LazyFrame:
    have = pairs.collect_schema().names()
    more = [name for name in audited.collect_schema().names() if name not in have]
    return pl.concat([pairs, audited.select(more)], how="horizontal")


def _with_reference(pairs: pl.LazyFrame, layout: Layout) -> pl.LazyFrame:
    scored = [layout.reference(split) for split in SPLITS if layout.reference(split).is_file()]
    if not layout.reference_manifest.is_file() or not scored:
        return pairs
    reference = pl.concat([pl.scan_parquet(path) for path in scored]).unique("pair_id")
    have = pairs.collect_schema().names()
    more = [name for name in reference.collect_schema().names() if name not in have]
    if not more:
        return pairs
    return pairs.join(reference.select("pair_id", *more), on="pair_id", how="left", maintain_order="left")
