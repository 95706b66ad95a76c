"""Pairs with everything that is known of them: their own columns, the reference's, and those of the audit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import AuditManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.frames import scan_frame
from scoreonce.stages.common.paths import SPLITS, RunPaths, Split
from scoreonce.stages.data.reference_scores import read_reference
from scoreonce.stages.data.side_by_side import beside, joined, same_ids

logger = logging.getLogger(__name__)


def joined_pairs(paths: RunPaths, splits: Sequence[Split] = SPLITS) -> pl.LazyFrame:
    """The pairs of the splits, in the order of their files, with a `split` column; read only as far as it is used.

    Reference columns are null for pairs that were not scored since, and audit columns are there only where the audit
    is of these very pairs. Raises `InputError` where the reference scores are damaged.
    """
    pairs = pl.concat([scan_frame(paths.pairs(split)).with_columns(split=pl.lit(split, pl.String)) for split in splits])
    audit = current_audit(paths)
    if audit is None:
        return _with_reference(pairs, paths, splits)
    audited = scan_frame(paths.audit_pairs).filter(pl.col("split").is_in(list(splits)))
    if audit.reference_manifest_sha256 == reference_digest(paths):
        return _with_reference(beside(pairs, audited), paths, splits)
    # The audit holds the columns of another scoring: those that are there now come first.
    return beside(_with_reference(pairs, paths, splits), audited)


def current_audit(paths: RunPaths) -> AuditManifest | None:
    """The manifest of the audit, where it is whole and of the pairs that are there; that it is not whole is logged."""
    if not paths.audit_summary.exists():
        return None
    try:
        manifest, _ = read_audit(paths)
        manifests.require_files(manifest, paths.audit)
    except InputError as error:
        logger.warning("The columns of the audit are left out. %s", error)
        return None
    return manifest if manifest.pairs_manifest_sha256 == sha256(paths.pairs_manifest) else None


def read_audit(paths: RunPaths) -> tuple[AuditManifest, dict[str, Any]]:
    """The manifest in audit.json, and the document beside it. Raises `InputError` where they cannot be read."""
    tree = manifests.load(AuditManifest, paths.audit_summary)
    head = tree.get("manifest", tree) if isinstance(tree, dict) else tree  # format 1 had none
    manifest = manifests.parse(AuditManifest, head, paths.audit_summary)
    return manifest, {name: part for name, part in tree.items() if name != "manifest"}


def reference_digest(paths: RunPaths) -> str | None:
    """SHA-256 of the manifest of the reference scores; None before `score`."""
    return sha256(paths.reference_manifest) if paths.reference_manifest.is_file() else None


def with_others(pairs: pl.LazyFrame, paths: RunPaths, splits: Sequence[Split] = SPLITS) -> pl.LazyFrame:
    """The pairs of the splits with `NAME_chosen_logps`, `NAME_rejected_logps` and `NAME_margin` of each further scored
    model.

    Null for pairs that it did not score. Raises `InputError` where its scores are damaged.
    """
    for name in paths.others:
        columns = {f"ref_{what}": f"{name}_{what}" for what in ("chosen_logps", "rejected_logps", "margin")}
        pairs = _with_scores(pairs, paths.of_other(name), splits, columns)
    return pairs


def _with_reference(pairs: pl.LazyFrame, paths: RunPaths, splits: Sequence[Split]) -> pl.LazyFrame:
    return _with_scores(pairs, paths, splits) if paths.reference_manifest.is_file() else pairs


def _with_scores(
    pairs: pl.LazyFrame, paths: RunPaths, splits: Sequence[Split], columns: Mapping[str, str] | None = None
) -> pl.LazyFrame:
    """The pairs with the columns of a model's scores, all or some of them, by other names."""
    read_reference(paths)

    def scores(splits: Sequence[Split]) -> pl.LazyFrame:
        frame = pl.concat([scan_frame(paths.reference(split)) for split in splits])
        return frame if columns is None else frame.select("pair_id", *columns).rename(columns)

    own = scores(splits)
    return beside(pairs, own) if same_ids(pairs, own) else joined(pairs, scores(SPLITS))
