"""Stage one: score the pairs under the reference, once.

    scoreonce score configs/x.toml             needs: scoreonce prepare
    scoreonce score configs/x.toml --dry-run   what is left, time and disk

Writes the store (one row per completion, found again by content) and, per split, one row per distinct pair.
"""

from __future__ import annotations

import sys
from typing import Any

import polars as pl

from scoreonce.pipeline.pages.numbers import duration, size
from scoreonce.schemas.manifests import ReferenceManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256, write_parquet
from scoreonce.stages.common.paths import SPLITS, RunPaths, Split
from scoreonce.stages.config import Run
from scoreonce.stages.data.prepared_pairs import require_pairs
from scoreonce.stages.score.reference_table import reference_view
from scoreonce.stages.scoring.estimate import estimate_scoring
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.run import ScoringResult, score_completions
from scoreonce.stages.store.store import ReferenceStore


def run(run: Run, *, dry_run: bool = False, lock_timeout: float | None = None) -> None:
    """Score what the store lacks, then write the pair tables; with `dry_run` only say what that takes.

    Another process that scores the same model is waited for, at most `lock_timeout` seconds. Raises `InputError` where
    the pairs are not prepared as the run file says, model and pairs do not fit, or the disk is full. Finished shards
    stay, after Ctrl-C too.
    """
    require_pairs(run)
    job = ScoringJob.of(run)
    if dry_run:
        _print_estimate(job)
        return
    try:
        scoring = score_completions(job, lock_timeout=lock_timeout)
    except KeyboardInterrupt:
        kept = f"{len(job.store.shards()):,} finished shards stay in {job.store.folder}"
        print(f"\n{kept}; what is missing is scored next time.", file=sys.stderr)
        raise
    if scoring.main:
        _write_pairs(job)
        _print_summary(job, scoring)


def _write_pairs(job: ScoringJob) -> None:
    """Write the pair tables, and the manifest last; nothing where they are already these."""
    paths, path, wanted = job.paths, job.paths.reference_manifest, _settings(job)
    if not manifests.changes(ReferenceManifest, path, wanted):
        return
    counts = {}
    for split in SPLITS:
        pairs = reference_view(job, split)
        counts[split] = pairs.height
        write_parquet(paths.reference(split), pairs.to_arrow(compat_level=pl.CompatLevel.oldest()))
    files = {paths.reference(split).name: sha256(paths.reference(split)) for split in SPLITS}
    manifests.write(path, ReferenceManifest(**wanted, pairs=counts, files=files))


def _settings(job: ScoringJob) -> dict[str, Any]:
    """What the pair tables depend on, as fields of the manifest."""
    store = job.store
    return {
        "store_key": store.identity.key,
        "weights": store.identity.weights,
        "adapter": store.identity.adapter,
        "model": job.reference.model,
        "dtype": store.identity.dtype,
        "head": store.identity.head,
        "layout": _layouts(store),
        "mismatched": job.score.mismatched,
        "embeddings": job.score.embeddings,
        "pairs_manifest_sha256": sha256(job.paths.pairs_manifest),
    }


def _layouts(store: ReferenceStore) -> str:
    """How the stored completions were laid out in the forward pass; more than one if that changed in between."""
    return " and ".join(sorted({store.sidecar(shard)["provenance"]["layout"] for shard in store.shards()}))


def _print_estimate(job: ScoringJob) -> None:
    left = estimate_scoring(job)
    if left.completions == 0:
        print("Nothing is left to score.")
        return
    speed = f"{left.tokens / left.seconds:,.0f} tokens/s, measured here"
    print(f"to score   {left.pairs:,} pairs, {left.completions:,} completions, {left.tokens:,} tokens")
    print(f"time       about {duration(left.seconds)} with one process ({speed})")
    print(f"memory     about {size(left.memory)} for each process")
    print(f"disk       about {size(left.bytes)} in {job.store.folder}")


def _print_summary(job: ScoringJob, scoring: ScoringResult) -> None:
    if scoring.scored:
        # Two completions to a pair: the unit in which preference training counts.
        speed = f"{scoring.scored / 2 / scoring.seconds:,.0f} pairs/s, {scoring.tokens / scoring.seconds:,.0f} tokens/s"
        did = f"{scoring.scored:,} completions in {duration(scoring.seconds)} ({speed})"
        print(f"scored     {did}, {scoring.reused:,} reused")
    else:
        print(f"scored     nothing: all {scoring.reused:,} completions are in the store")
    for split in SPLITS:
        print(f"{split:<11}{_ranking(job.paths, split)}")
    store = job.store
    used = sum(shard.stat().st_size for shard in store.shards())
    print(f"store      {size(used)} in {len(store.shards()):,} shards: {store.folder}")


def _ranking(paths: RunPaths, split: Split) -> str:
    margins = pl.read_parquet(paths.reference(split), columns=["ref_margin"]).get_column("ref_margin")
    judged = margins.drop_nulls()
    if judged.len() == 0:
        return f"{margins.len():,} pairs"
    return f"{margins.len():,} pairs; the reference prefers the chosen side in {(judged > 0).sum() / judged.len():.1%}"
