"""Pairs with everything that is known of them: their own columns, the reference's, and those of the audit."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from scoreonce.stages.common.files import read_json, sha256
from scoreonce.stages.common.paths import SPLITS, RunPaths, Split


def joined_pairs(paths: RunPaths, splits: Sequence[Split] = SPLITS) -> pl.LazyFrame:
    """The pairs of the splits, in the order of their files, with a `split` column; read only as far as it is used.

    Reference columns are null for pairs that were not scored since, and audit columns are there only where the audit
    is of these very pairs.
    """
    pairs = pl.concat(
        [pl.scan_parquet(paths.pairs(split)).with_columns(split=pl.lit(split, pl.String)) for split in splits]
    )
    if audit_is_current(paths):
        pairs = _beside(pairs, pl.scan_parquet(paths.audit_pairs).filter(pl.col("split").is_in(list(splits))))
    return _with_reference(pairs, paths)


def audit_is_current(paths: RunPaths) -> bool:
    """Whether pairs.parquet of the audit was made of the pairs that are there."""
    try:
        made_of = read_json(paths.audit / "measures.json")["pairs"]
        return paths.audit_pairs.is_file() and made_of == sha256(paths.pairs_manifest)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _beside(pairs: pl.LazyFrame, audited: pl.LazyFrame) -> pl.LazyFrame:
    have = pairs.collect_schema().names()
    more = [name for name in audited.collect_schema().names() if name not in have]
    return pl.concat([pairs, audited.select(more)], how="horizontal")


def _with_reference(pairs: pl.LazyFrame, paths: RunPaths) -> pl.LazyFrame:
    scored = [paths.reference(split) for split in SPLITS if paths.reference(split).is_file()]
    if not paths.reference_manifest.is_file() or not scored:
        return pairs
    reference = pl.concat([pl.scan_parquet(path) for path in scored]).unique("pair_id")
    have = pairs.collect_schema().names()
    more = [name for name in reference.collect_schema().names() if name not in have]
    if not more:
        return pairs
    return pairs.join(reference.select("pair_id", *more), on="pair_id", how="left", maintain_order="left")
