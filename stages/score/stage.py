"""Stage one: score the pairs under the reference, once.

    scoreonce score configs/x.toml             needs: scoreonce prepare
    scoreonce score configs/x.toml --dry-run   what is left, time and disk
    scoreonce score configs/x.toml --part 3/8  one part of eight, beside the others on any machine
    scoreonce score configs/x.toml --engine ray      by the GPUs of a Ray cluster, or its CPUs; --group-size 8: eight of
                                                     them hold one model together

Writes the store (one row per completion, found again by content) and, per split, one row per distinct pair.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import polars as pl

from scoreonce.pipeline.pages.numbers import duration, size
from scoreonce.schemas.manifests import ReferenceManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.locking import locked, remove_unfinished
from scoreonce.stages.common.paths import SPLITS, RunPaths, Split
from scoreonce.stages.common.removal import require_inside
from scoreonce.stages.common.results import ScoreResult
from scoreonce.stages.config import Run
from scoreonce.stages.data.prepared_pairs import require_pairs
from scoreonce.stages.models.forward_record import facts
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.score.ray_engine import require_engine, score_with_ray
from scoreonce.stages.score.reference_table import write_reference_table
from scoreonce.stages.scoring.estimate import ScoringEstimate, estimate_scoring
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.run import ScoringResult, score_completions
from scoreonce.stages.sharded.limits import require_all_bits
from scoreonce.stages.store.parts import Part
from scoreonce.stages.store.store import ReferenceStore

logger = logging.getLogger(__name__)


@at_address("pairs/*", writes="reference", together=True)
def score(run: Run, *, part: str | None = None, lock_timeout: float | None = None) -> ScoreResult:
    """Score the completions that the store lacks, then write the pair tables.

    The models of [reference.other] follow the reference, each with a store and pair tables of its own.
    Another process that scores the same model is waited for, at most `lock_timeout` seconds. With `part`, "3/8" say,
    only the third of eight parts of the completions is scored, beside processes that score the others, and the pair
    tables are written if nothing is missing at the end. Raises `InputError` where there is no such part, the pairs are
    not prepared as the run file says, model and pairs do not fit, or the disk is full. Finished shards stay, after
    Ctrl-C too.
    """
    results = [_score(own, job, lock_timeout) for own, job in _jobs(run, part)]
    totals = (sum(counts) for counts in zip(*results, strict=True))
    return ScoreResult(RunPaths.of(run), *totals)


def _score(run: Run, job: ScoringJob, lock_timeout: float | None) -> tuple[int, int, int, float, int]:
    """Score under one model: completions scored and reused, tokens, seconds, and completions that are missing."""
    try:
        scoring = _scored(run, job, lock_timeout)
    except KeyboardInterrupt:
        kept = f"{len(job.store.shards()):,} finished shards stay in {job.store.place}"
        logger.warning("\n%s; what is missing is scored next time.", kept)
        raise
    if scoring.main:
        if scoring.missing == 0:
            _write_pairs(job, lock_timeout)
        logger.info("\n".join(_summary(job, scoring)))
    return scoring.scored, scoring.reused, scoring.tokens, scoring.seconds, scoring.missing


@at_address("pairs/*")
def estimate(run: Run, *, part: str | None = None) -> ScoringEstimate:
    """What `score` would do: its time, memory and disk, measured with the model for some seconds. Writes nothing.

    Each model of [reference.other] is measured too; the estimate that is returned is the reference's.
    """
    estimates = []
    for _, job in _jobs(run, part):
        estimates.append(estimate_scoring(job))
        logger.info("\n".join(_estimated(job, estimates[-1])))
    return estimates[0]


def _scored(run: Run, job: ScoringJob, lock_timeout: float | None) -> ScoringResult:
    if run.score.engine == "ray":
        return score_with_ray(run, job, lock_timeout=lock_timeout)
    return score_completions(job, lock_timeout=lock_timeout)


def _jobs(run: Run, part: str | None) -> Iterator[tuple[Run, ScoringJob]]:
    """The reference's job, then those of the further models, each with the run that has that model for its reference.

    Of a further model nothing is kept but log-probs of tokens.
    """
    wanted = None if part is None else Part.parse(part)
    require_engine(run, part)
    _require_can_be_sharded(run)
    require_pairs(run)
    yield run, ScoringJob.of(run, part=wanted)
    paths, sums = RunPaths.of(run), {"full_vocab": "none", "embeddings": False, "mismatched": False}
    for name, reference in run.reference.other.items():
        logger.info("%s: %s", name, reference.model)
        own = run.model_copy(update={"reference": reference, "score": run.score.model_copy(update=sums)})
        yield own, replace(ScoringJob.of(own, part=wanted), paths=paths.of_other(name))


def _require_can_be_sharded(run: Run) -> None:
    """Raise `InputError` where one of the models would be in parts and cannot: before the first of them is scored."""
    compute, size = run.compute, run.score.group_size
    in_parts = {
        f"compute.shard = {compute.shard!r}": compute.shard in ("full", "hybrid"),
        "compute.offload = true": compute.offload,
        f"score.group_size = {size}": size > 1,
    }
    for asked in (setting for setting, holds in in_parts.items() if holds):
        require_all_bits(run.reference, asked)
        for name, reference in run.reference.other.items():
            require_all_bits(reference, asked, section=f"reference.other.{name}")


def _write_pairs(job: ScoringJob, lock_timeout: float | None) -> None:
    """Write the pair tables, and the manifest last; nothing where they are already these."""
    paths, path, computed = job.paths, job.paths.reference_manifest, _computed(job.store)
    wanted = _settings(job, computed.pop("layout", ""))
    changed = manifests.changes(ReferenceManifest, path, wanted)
    if not changed:
        return
    if path.exists():
        logger.info(manifests.again("Writing the pair tables", changed, "scored"))
    require_inside(path.parent, paths.out)
    # `prepare` takes the same lock, so that the tables are of one set of pairs.
    with locked(paths, paths.prepared, f"the folder {paths.prepared}", timeout=lock_timeout):
        if not manifests.changes(ReferenceManifest, path, wanted):
            return  # another process has written them meanwhile
        remove_unfinished(path.parent, inside=paths.out)
        counts = {}
        for split in SPLITS:
            counts[split] = write_reference_table(job, split)
        files = {paths.reference(split).name: sha256(paths.reference(split)) for split in SPLITS}
        manifests.write(path, ReferenceManifest(**wanted, computed=computed, pairs=counts, files=files))


def _settings(job: ScoringJob, layout: str) -> dict[str, Any]:
    """What the pair tables depend on, as fields of the manifest."""
    store = job.store
    return {
        "store_key": store.identity.key,
        "weights": store.identity.weights,
        "adapter": store.identity.adapter,
        "model": job.reference.model,
        "dtype": store.identity.dtype,
        "quantization": store.identity.quantization,
        "head": store.identity.head,
        "layout": layout,
        "mismatched": job.score.mismatched,
        "embeddings": job.score.embeddings,
        "pairs_manifest_sha256": sha256(job.paths.pairs_manifest),
    }


def _computed(store: ReferenceStore) -> dict[str, str]:
    """What the stored completions were computed with; several values of a fact that changed in between."""
    return facts(store.sidecar(shard)["provenance"] for shard in store.shards())


def _estimated(job: ScoringJob, left: ScoringEstimate) -> Iterator[str]:
    if left.completions == 0:
        yield f"Nothing is left to score{_of_part(job)}."
        return
    speed = f"{left.tokens / left.seconds:,.0f} tokens/s, measured here"
    yield f"to score   {left.pairs:,} pairs, {left.completions:,} completions, {left.tokens:,} tokens{_of_part(job)}"
    yield f"time       about {duration(left.seconds)} with one process ({speed})"
    yield f"memory     about {size(left.memory)} for each process"
    yield f"disk       about {size(left.bytes)} in {job.store.place}"


def _summary(job: ScoringJob, scoring: ScoringResult) -> Iterator[str]:
    if scoring.scored:
        # Two completions to a pair: the unit in which preference training counts.
        speed = f"{scoring.scored / 2 / scoring.seconds:,.0f} pairs/s, {scoring.tokens / scoring.seconds:,.0f} tokens/s"
        did = f"{scoring.scored:,} completions in {duration(scoring.seconds)} ({speed})"
        yield f"scored     {did}, {scoring.reused:,} reused"
    else:
        yield f"scored     nothing: all {scoring.reused:,} completions{_of_part(job)} are in the store"
    if scoring.missing:
        yield f"part {job.part!s:<6}done; {scoring.missing:,} completions of other parts are still missing"
        yield "           the last part writes the pair tables, or `scoreonce score` without --part"
    else:
        for split in SPLITS:
            yield f"{split:<11}{_ranking(job.paths, split)}"
    store = job.store
    used = sum(shard.stat().st_size for shard in store.shards())
    yield f"store      {size(used)} in {len(store.shards()):,} shards: {store.place}"


def _of_part(job: ScoringJob) -> str:
    return f" of part {job.part}" if job.part else ""


def _ranking(paths: RunPaths, split: Split) -> str:
    margins = pl.read_parquet(paths.reference(split), columns=["ref_margin"], glob=False).get_column("ref_margin")
    judged = margins.drop_nulls()
    if judged.len() == 0:
        return f"{margins.len():,} pairs"
    return f"{margins.len():,} pairs; the reference prefers the chosen side in {(judged > 0).sum() / judged.len():.1%}"
