"""Scoring what the store lacks: shared by `score` and `evaluate`.

Under accelerate, process r of n scores shards r, r + n, ... and writes them itself; process 0 holds the lock, of the
whole store or of the job's part.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scoreonce.pipeline.pages.numbers import size
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.progress import progress
from scoreonce.stages.scoring.estimate import tensor_bytes
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.processes import ALONE, ProcessGroup, launched
from scoreonce.stages.scoring.rows import Extent, load_scorer, row_reader
from scoreonce.stages.scoring.unscored import UnscoredCompletions, missing_completions, unscored_completions
from scoreonce.stages.scoring.write import ShardWriter, require_finite
from scoreonce.stages.store.codecs import SCORES
from scoreonce.stages.store.sidecar import Damage
from scoreonce.stages.store.store import ReferenceStore

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from scoreonce.stages.scoring.model_scorer import ModelScorer


@dataclass(frozen=True)
class ScoringResult:
    """What scoring did: completions and positions over all processes, and the seconds that this took."""

    scored: int
    reused: int
    tokens: int = 0
    seconds: float = 0.0
    main: bool = True
    missing: int = 0  # completions of other parts that the store lacks


def score_completions(job: ScoringJob, *, lock_timeout: float | None = None) -> ScoringResult:
    """Score every completion of the pairs that the store lacks, or of the job's part of them, shard by shard.

    The model is loaded only if there is something to do. Damaged files of any layer are set aside, which is printed,
    and their completions scored again. A writer of the whole store waits for every other, a part for the same part and
    for writers of the whole, at most `lock_timeout` seconds. Raises `InputError` where model and pairs do not fit, or
    where a log-prob is not finite; finished shards stay. The same where the store is at an address that cannot be
    reached: what was scored is kept, and published the next time.
    """
    processes = launched(job.compute)
    _open_copy(job, processes)
    if job.part is None and processes.world == 1 and not _needs_repair(job):
        work = unscored_completions(job)
        if len(work) == 0:
            job.store.tidy()
            return ScoringResult(0, work.wanted)
    with ExitStack() as held:
        work = _planned(job, processes, held, lock_timeout)
        seconds = _score(job, work, processes, _loader(job, work)) if len(work) else 0.0
        processes.wait()
        missing = _missing(job) if processes.rank == 0 else 0
    main = processes.rank == 0
    return ScoringResult(len(work), work.wanted - len(work), work.tokens, seconds, main, missing)


def score_part(
    job: ScoringJob,
    loaded: Callable[[], ModelScorer],
    *,
    processes: ProcessGroup = ALONE,
    lock_timeout: float | None = None,
) -> None:
    """Score a job's part as `score_completions` does, with a model that is used again: alone, or in all of `processes`.

    `loaded` gives the model, and is called only if there is something to do. What other parts lack is not counted.
    """
    with ExitStack() as held:
        work = _planned(job, processes, held, lock_timeout)
        if len(work):
            _score(job, work, processes, loaded)
        processes.wait()  # the first holds the lock until all have written


def plan(job: ScoringJob, *, lock_timeout: float | None = None) -> UnscoredCompletions:
    """Put the store in order, and find what it lacks for parts to score. Raises what `score_completions` raises."""
    with job.store.changing(timeout=lock_timeout):
        _put_in_order(job)
        work = unscored_completions(job)
    job.store.forget_indexes()
    return work


def count_missing(job: ScoringJob, *, lock_timeout: float | None = None) -> int:
    """How many completions of the pairs the store lacks. The last of several parts to look sees what all wrote."""
    job.store.pull(job.tensor_layers)
    with job.store.changing(timeout=lock_timeout):
        return missing_completions(job)


def _planned(
    job: ScoringJob, processes: ProcessGroup, held: ExitStack, lock_timeout: float | None
) -> UnscoredCompletions:
    """What is to be scored, after the first process has taken the lock, into `held`, and put the store in order."""
    with ExitStack() as planning:
        if processes.rank == 0:
            _lock(job, held, planning, lock_timeout)
            _put_in_order(job)
        processes.wait()  # all see the store that the first has put in order
        work = unscored_completions(job)
        processes.wait()  # no process writes before all have read the index
    if job.part is not None:
        job.store.forget_indexes()  # other parts will replace them
    return work


def _put_in_order(job: ScoringJob) -> None:
    damages = job.store.set_aside_damaged()
    for damage in damages:
        _log_damage(job.store, damage)
    if damages:
        job.store.pull(job.tensor_layers)  # they may be sound at the address
    job.store.publish_rest(job.part)
    if _lacks_head(job):
        _restore_head(job)


def _loader(job: ScoringJob, work: UnscoredCompletions) -> Callable[[], ModelScorer]:
    return lambda: load_scorer(job, Extent.of(job, work))


def _open_copy(job: ScoringJob, processes: ProcessGroup) -> None:
    """Where the store is at an address, let all processes of a machine see one state of it."""
    mirror = job.store.mirror
    if mirror is None:
        return
    if processes.world > int(os.environ.get("LOCAL_WORLD_SIZE", processes.world)):
        raise InputError(
            "One launch over several machines cannot score into a store at an address.",
            found=f"{processes.world} processes, of which {os.environ['LOCAL_WORLD_SIZE']} on this machine",
            where=f"score.store = {mirror.address.rpartition('/')[0]!r}",
            fix="Score a part on each machine, `scoreonce score RUN.toml --part 1/2` and so on: they need no "
            "connection to each other. Or set score.store to a folder that all machines see.",
        )
    if processes.rank == 0:
        job.store.pull(job.tensor_layers)
    else:
        mirror.take_as_it_is([SCORES, *job.tensor_layers])


def _lock(job: ScoringJob, held: ExitStack, planning: ExitStack, timeout: float | None) -> None:
    """Take what is held for the whole pass, and what only until the work is planned."""
    if job.part is None:
        held.enter_context(job.store.writing(timeout=timeout))
    else:
        held.enter_context(job.store.scoring_part(job.part, timeout=timeout))
        planning.enter_context(job.store.changing(timeout=timeout))


def _missing(job: ScoringJob) -> int:
    """What the store lacks after a pass."""
    return 0 if job.part is None else count_missing(job)


def _needs_repair(job: ScoringJob) -> bool:
    store = job.store
    damaged = store.new_damage() or store.heads_without_digest() or store.is_nameless()
    return bool(damaged) or _lacks_head(job) or bool(store.mirror and store.mirror.unpublished())


def _lacks_head(job: ScoringJob) -> bool:
    """Whether blocks of whole distributions have lost the head that they need."""
    form = job.score.form
    return form is not None and bool(job.store.tensors(form).files()) and not job.store.head(form).exists()


def _restore_head(job: ScoringJob) -> None:
    """Store the head again. The blocks are sound, so there may be nothing to score, and no other reason to load.

    Its form shows when it runs, for which the first layers are enough.
    """
    import torch

    from scoreonce.pipeline.forward import architecture
    from scoreonce.pipeline.forward.head_probe import understand_head
    from scoreonce.stages.models.lineage import Start
    from scoreonce.stages.models.loading import load_reference, resolve_device
    from scoreonce.stages.sharded.load import few_layers

    assert job.score.form is not None
    reference, device = job.reference, resolve_device(job.compute.device)
    if reference.adapter is None:
        start = Start(reference.model, reference.revision, None)
        lm = few_layers(start, getattr(torch, reference.dtype), device)
    else:  # which may have a head of its own
        lm = architecture.causal_lm(load_reference(reference, device))
    understand_head(lm)
    job.store.head(job.score.form).write(architecture.head_of(lm))


def _score(
    job: ScoringJob, work: UnscoredCompletions, processes: ProcessGroup, loaded: Callable[[], ModelScorer]
) -> float:
    """Score this process's shards and return the seconds that this took, without those of loading the model."""
    scorer, read = loaded(), row_reader(job)
    part = {"part": str(job.part)} if job.part else {}
    provenance = {**scorer.provenance(), "processes": processes.world, **part}
    if job.score.form and processes.rank == 0:
        with job.store.changing() if job.part else nullcontext():
            job.store.head(job.score.form).write(scorer.head())
    shards = ShardWriter(job, scorer, provenance)
    if job.keep_hidden and processes.rank == 0:
        layers = " and ".join(job.tensor_layers)
        logger.info(f"keeping {layers}: {size(tensor_bytes(job, scorer, work))} on disk")
    share, main, start = work.share(processes.rank, processes.world), processes.rank == 0, time.perf_counter()
    # One shard is written while the next is scored; leaving waits for what is being written.
    with progress(share, "completions", "scoring", enabled=main) as bar, ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        done = [0, 0]

        def advance(completions: int, tokens: int) -> None:
            done[0] += completions
            done[1] += tokens
            seconds = time.perf_counter() - start
            # Two completions to a pair: the unit in which preference training counts.
            bar.set_postfix_str(
                f"{done[0] / 2 / seconds:,.0f} pairs/s, {done[1] / seconds:,.0f} tokens/s", refresh=False
            )
            bar.update(completions)

        # The last round may have fewer shards than processes.
        own, rounds = work.shards(processes.rank, processes.world), work.rounds(processes.world)
        spare = read(work.sample(1)) if scorer.sharded else []
        for _ in range(rounds):
            shard = next(own, None)
            if shard is None:
                if scorer.sharded:
                    scorer.keep_up(spare)
                continue
            rows = read(shard)
            scores, hidden = scorer.score(rows, advance, keep_hidden=job.keep_hidden)
            require_finite(shard, scores, job.reference)
            if written is not None:
                written.result()  # raises what went wrong there, a full disk say
            written = writer.submit(shards.write, shard, rows, scores, hidden)
        if written is not None:
            written.result()
    return time.perf_counter() - start


def _log_damage(store: ReferenceStore, damage: Damage) -> None:
    layer = store.scores if damage.path.parent == store.shards_folder else store.tensors(damage.path.parent.name)
    what = "head" if damage.path == store.head(layer.name).path else layer.unit
    again = "fetched or scored" if store.mirror else "scored"
    aside = f"moved to {store.folder / 'damaged'}, to be {again} again"
    setting = f" with {damage.setting}" if damage.setting else ""
    logger.warning(f"damaged {what} {damage.path.name}: {damage.reason}; {aside}{setting}")
