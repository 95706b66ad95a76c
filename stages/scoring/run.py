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
from typing import NamedTuple

from scoreonce.pipeline.pages.numbers import size
from scoreonce.stages.common.progress import progress
from scoreonce.stages.config import Compute
from scoreonce.stages.scoring.estimate import tensor_bytes
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.rows import load_scorer, row_reader
from scoreonce.stages.scoring.unscored import UnscoredCompletions, missing_completions, unscored_completions
from scoreonce.stages.scoring.write import ShardWriter, require_finite
from scoreonce.stages.store.sidecar import Damage
from scoreonce.stages.store.store import ReferenceStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoringResult:
    """What scoring did: completions and positions over all processes, and the seconds that this took."""

    scored: int
    reused: int
    tokens: int = 0
    seconds: float = 0.0
    main: bool = True
    missing: int = 0  # completions of other parts that the store lacks


class ProcessGroup(NamedTuple):
    """This process among those that score together, and a barrier over them."""

    rank: int
    world: int
    wait: Callable[[], None]


def score_completions(job: ScoringJob, *, lock_timeout: float | None = None) -> ScoringResult:
    """Score every completion of the pairs that the store lacks, or of the job's part of them, shard by shard.

    The model is loaded only if there is something to do. Damaged files of any layer are set aside, which is printed,
    and their completions scored again. A writer of the whole store waits for every other, a part for the same part and
    for writers of the whole, at most `lock_timeout` seconds. Raises `InputError` where model and pairs do not fit, or
    where a log-prob is not finite; finished shards stay.
    """
    processes = _process_group(job.compute)
    if job.part is None and processes.world == 1 and not _needs_repair(job):
        work = unscored_completions(job)
        if len(work) == 0:
            job.store.tidy()
            return ScoringResult(0, work.wanted)
    with ExitStack() as held:
        with ExitStack() as planning:
            if processes.rank == 0:
                _lock(job, held, planning, lock_timeout)
                for damage in job.store.set_aside_damaged():
                    _log_damage(job.store, damage)
                if _lacks_head(job):
                    _restore_head(job)
            processes.wait()  # all see the store that the first has put in order
            work = unscored_completions(job)
            processes.wait()  # no process writes before all have read the index
        if job.part is not None:
            job.store.forget_indexes()  # other parts will replace them
        seconds = _score(job, work, processes) if len(work) else 0.0
        processes.wait()
        missing = _missing(job) if processes.rank == 0 else 0
    main = processes.rank == 0
    return ScoringResult(len(work), work.wanted - len(work), work.tokens, seconds, main, missing)


def _lock(job: ScoringJob, held: ExitStack, planning: ExitStack, timeout: float | None) -> None:
    """Take what is held for the whole pass, and what only until the work is planned."""
    if job.part is None:
        held.enter_context(job.store.writing(timeout=timeout))
    else:
        held.enter_context(job.store.scoring_part(job.part, timeout=timeout))
        planning.enter_context(job.store.changing(timeout=timeout))


def _missing(job: ScoringJob) -> int:
    """What the store lacks after a pass. The last of several parts to look sees what all of them have written."""
    if job.part is None:
        return 0
    with job.store.changing():
        return missing_completions(job)


def _needs_repair(job: ScoringJob) -> bool:
    store = job.store
    damaged = store.new_damage() or store.heads_without_digest() or store.is_nameless()
    return bool(damaged) or _lacks_head(job)


def _lacks_head(job: ScoringJob) -> bool:
    """Whether blocks of whole distributions have lost the head that they need."""
    form = job.score.form
    return form is not None and bool(job.store.tensors(form).files()) and not job.store.head(form).exists()


def _restore_head(job: ScoringJob) -> None:
    """Store the head again. The blocks are sound, so there may be nothing to score, and no other reason to load."""
    from scoreonce.pipeline.forward import architecture
    from scoreonce.stages.models.loading import load_model, resolve_device

    assert job.score.form is not None
    reference = job.reference
    model = load_model(
        reference.model,
        dtype=reference.dtype,
        device=resolve_device(job.compute.device),
        revision=reference.revision,
        adapter=reference.adapter,
    )
    job.store.head(job.score.form).write(architecture.head_of(architecture.causal_lm(model)))


def _score(job: ScoringJob, work: UnscoredCompletions, processes: ProcessGroup) -> float:
    """Score this process's shards and return the seconds that this took, without those of loading the model."""
    scorer, read = load_scorer(job, work), row_reader(job)
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
    aside = f"moved to {store.folder / 'damaged'}, to be scored again"
    setting = f" with {damage.setting}" if damage.setting else ""
    logger.warning(f"damaged {what} {damage.path.name}: {damage.reason}; {aside}{setting}")


def _process_group(compute: Compute) -> ProcessGroup:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ProcessGroup(0, 1, lambda: None)
    from accelerate import PartialState

    state = PartialState(cpu=compute.device == "cpu")
    return ProcessGroup(state.process_index, state.num_processes, state.wait_for_everyone)
