"""Scoring what the store lacks, and reading it back per pair: shared by `score` and `evaluate`.

Under accelerate, process r of n scores shards r, r + n, ... and writes them itself; process 0 holds the writer's lock.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.margins import ref_margin
from scoreonce.schemas.tables import ReferencePair
from scoreonce.stages.common.files import read_parquet
from scoreonce.stages.common.paths import SPLITS, RunPaths, Split
from scoreonce.stages.common.progress import progress
from scoreonce.stages.common.units import size
from scoreonce.stages.config import Compute, Reference, Run, Score
from scoreonce.stages.models.digests import adapter_digest, model_digest
from scoreonce.stages.scoring.unscored import (
    CompletionLocation,
    ShardPlan,
    UnscoredCompletions,
    largest_token,
    pairs_left,
    unscored_completions,
)
from scoreonce.stages.store.store import Damage, Store, StoreIdentity, writable

LONGEST_ROW = 4_096  # tokens
HIDDEN_SHARD = 256  # completions
POOLED = "pooled"  # one vector per completion: the sum of its hidden states

if TYPE_CHECKING:
    from torch import Tensor

    from scoreonce.pipeline.batches.prompt_rows import PromptRow
    from scoreonce.stages.scoring.model_scorer import CompletionScores, ModelScorer

# Measured on token log-probs (float32, byte-stream split, zstd 1), and the other columns of a completion.
BYTES_PER_TOKEN, BYTES_PER_COMPLETION = 3.5, 72
PROBE_SECONDS, PROBE_ROWS = 2.0, 256


@dataclass(frozen=True)
class ScoringJob:
    """Which pairs are scored under which model, where the scores go, and how they are computed."""

    paths: RunPaths
    splits: Sequence[Split]
    reference: Reference
    store: Store
    compute: Compute
    score: Score

    @property
    def keep_hidden(self) -> bool:
        """Whether hidden states are needed, for something to be kept of them."""
        return bool(self.kept)

    @property
    def kept(self) -> list[str]:
        """Names of what is kept of each completion besides its scores."""
        pooled = [POOLED] if self.score.embeddings else []
        return [self.score.form, *pooled] if self.score.form else pooled

    @classmethod
    def of(cls, run: Run, *, splits: Sequence[Split] = SPLITS, reference: Reference | None = None) -> ScoringJob:
        """Score `splits` under `reference`, or the run's own. Hashes the weights, once."""
        paths, model = RunPaths.of(run), reference or run.reference
        return cls(paths, splits, model, open_store(paths.store, model), run.compute, run.score)


@dataclass(frozen=True)
class ScoringResult:
    """What scoring did: completions and positions over all processes, and the seconds that this took."""

    scored: int
    reused: int
    tokens: int = 0
    seconds: float = 0.0
    main: bool = True


@dataclass(frozen=True)
class ScoringEstimate:
    """What is left to score, and what that takes."""

    pairs: int = 0
    completions: int = 0
    tokens: int = 0
    seconds: float = 0.0
    bytes: int = 0  # on disk
    memory: int = 0  # peak bytes of a process


class ProcessGroup(NamedTuple):
    """This process among those that score together, and a barrier over them."""

    rank: int
    world: int
    wait: Callable[[], None]


def open_store(root: Path, reference: Reference) -> Store:
    """The store of a model's scores, whether anything is in it or not. Hashes the weights, once."""
    from scoreonce.stages.models.loading import folder_of

    adapter = None if reference.adapter is None else adapter_digest(folder_of(reference.adapter))
    weights = model_digest(folder_of(reference.model, reference.revision))
    return Store(root, StoreIdentity(weights, reference.dtype, adapter=adapter), reference.model)


def score_completions(job: ScoringJob, *, lock_timeout: float | None = None) -> ScoringResult:
    """Score every completion of the pairs that the store lacks, shard by shard.

    The model is loaded only if there is something to do. Damaged shards are set aside, said so, and scored again.
    Raises `InputError` where model and pairs do not fit, or where a log-prob is not finite; finished shards stay.
    """
    processes = _process_group(job.compute)
    if processes.world == 1 and not job.store.damage():
        work = _plan(job)
        if len(work) == 0:
            return ScoringResult(0, work.wanted)
    with ExitStack() as held:
        if processes.rank == 0:
            held.enter_context(job.store.writing(timeout=lock_timeout))
            for damage in job.store.mend():
                _say_damage(job.store, damage)
        processes.wait()  # all see the store that the first has put in order
        work = _plan(job)
        processes.wait()  # nobody writes before all have looked
        seconds = _score(job, work, processes) if len(work) else 0.0
        processes.wait()
    return ScoringResult(len(work), work.wanted - len(work), work.tokens, seconds, processes.rank == 0)


def estimate_scoring(job: ScoringJob) -> ScoringEstimate:
    """What `score_completions` would do, its time measured with the model on a sample. Writes nothing."""
    work = _plan(job, damaged=job.store.damage())
    if len(work) == 0:
        return ScoringEstimate()
    from scoreonce.stages.models.loading import resolve_device
    from scoreonce.stages.models.memory import peak_bytes  # torch, again

    inference = _load(job, work)
    rate = inference.positions_per_second(_row_reader(job)(work.sample(PROBE_ROWS)), PROBE_SECONDS)
    scores = int(BYTES_PER_TOKEN * work.completion_tokens + BYTES_PER_COMPLETION * len(work))
    disk = scores + _kept_bytes(job, inference, work)
    memory = peak_bytes(resolve_device(job.compute.device))
    return ScoringEstimate(_pairs_left(job, work), len(work), work.tokens, work.tokens / rate, disk, memory)


def pair_view(paths: RunPaths, split: Split, store: Store) -> pl.DataFrame:
    """One row of `ReferencePair` for each distinct pair of a split, in the order of the pairs.

    What only `score` computes, on request, is null. Raises `InputError` where the store is damaged, or lacks a
    completion.
    """
    columns = ["pair_id", "chosen_id", "rejected_id", "chosen_len", "rejected_len"]
    pairs = _frame(paths.pairs(split), columns).unique("pair_id", keep="first", maintain_order=True)
    ids = pl.concat([pairs.get_column("chosen_id"), pairs.get_column("rejected_id").drop_nulls().alias("chosen_id")])
    scores = store.read(ids, ["logps", "entropy", "top1_hits"])
    for side in ("chosen", "rejected"):
        named = scores.select(
            pl.col("completion_id").alias(f"{side}_id"), pl.exclude("completion_id").name.prefix(f"ref_{side}_")
        )
        pairs = pairs.join(named, on=f"{side}_id", how="left", maintain_order="left")
    margin = ref_margin()
    unscored = pl.col("ref_chosen_logps").is_null() | (pl.col("rejected_id").is_not_null() & margin.is_null())
    missing = pairs.filter(unscored).height
    if missing:
        raise InputError(
            "The reference store lacks completions of these pairs.",
            found=f"{missing:,} of {pairs.height:,} pairs of {split} without scores",
            where=str(store.folder),
            fix="Run `scoreonce score`.",
        )
    whole = pairs.with_columns(ref_margin=margin)
    types = ReferencePair.create_empty().schema
    on_request = [pl.lit(None, dtype).alias(name) for name, dtype in types.items() if name not in whole.columns]
    return ReferencePair.validate(whole.with_columns(on_request).select(ReferencePair.column_names()), cast=True)


def _plan(job: ScoringJob, damaged: Sequence[Damage] = ()) -> UnscoredCompletions:
    stored = job.store.ids(without=damaged)
    for form in job.kept:
        from scoreonce.stages.store.tensor_layers import VocabularyStore  # torch, which other jobs should not wait for

        stored = stored.filter(stored.is_in(VocabularyStore(job.store.folder, form).ids()))
    # Completions of one prompt beyond this go to another row: attention costs the square of a row's length.
    row_tokens = job.compute.tokens_per_microbatch or LONGEST_ROW
    return unscored_completions(
        job.paths,
        job.splits,
        stored,
        row_tokens=row_tokens,
        # Hidden states of a shard stand in memory together.
        shard_completions=min(job.score.shard_completions, HIDDEN_SHARD)
        if job.keep_hidden
        else job.score.shard_completions,
        mismatches=job.score.mismatched,
    )


def _kept_bytes(job: ScoringJob, inference: ModelScorer, work: UnscoredCompletions) -> int:
    """Disk that whole distributions and pooled states of the unscored completions take."""
    width, element = inference.head().weight.shape[1], inference.head().weight.element_size()
    per_token = {"none": 0, "hidden": width * element, "topk": 6 * job.score.topk}[job.score.full_vocab]
    return per_token * work.completion_tokens + (4 * width * len(work) if job.score.embeddings else 0)


def _pairs_left(job: ScoringJob, work: UnscoredCompletions) -> int:
    return pairs_left(job.paths, job.splits, work, mismatches=job.score.mismatched)


def _score(job: ScoringJob, work: UnscoredCompletions, processes: ProcessGroup) -> float:
    """Score this process's shards and return the seconds that took, loading left out."""
    inference, read = _load(job, work), _row_reader(job)
    provenance = {**inference.provenance(), "processes": processes.world}
    if job.kept and processes.rank == 0:
        print(f"keeping {' and '.join(job.kept)}: {size(_kept_bytes(job, inference, work))} on disk", file=sys.stderr)
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

        for shard in work.shards(processes.rank, processes.world):
            scores, hidden = inference.score(read(shard), advance, keep_hidden=job.keep_hidden)
            _demand_finite(shard, scores, job.reference)
            if written is not None:
                written.result()  # raises what went wrong there, a full disk say
            written = writer.submit(_write, job, inference, shard, scores, hidden, provenance)
        if written is not None:
            written.result()
    return time.perf_counter() - start


def _write(
    job: ScoringJob,
    inference: ModelScorer,
    shard: ShardPlan,
    scores: CompletionScores,
    hidden: Tensor | None,
    provenance: dict[str, Any],
) -> None:
    if job.score.form and hidden is not None:  # before the scores: a completion counts as done with both
        _keep_distributions(job, job.score.form, inference, shard, scores, hidden)
    if job.score.embeddings and hidden is not None:
        _keep_pooled(job, shard, scores, hidden)
    job.store.append(_table(shard.ids, scores), provenance)


def _keep_distributions(
    job: ScoringJob, form: str, inference: ModelScorer, shard: ShardPlan, scores: CompletionScores, hidden: Tensor
) -> None:
    from scoreonce.stages.store.tensor_layers import VocabularyStore

    store, head = VocabularyStore(job.store.folder, form), inference.head()
    columns = {"hidden": hidden}
    if form != "hidden":
        top = inference.top_k(hidden, job.score.topk)
        columns = {"ids": top.ids, "logps": top.logps}
        if not store.blocks():
            loss = f"{top.divergence.mean():.2e} nats of KL per token in the first shard"
            print(f"{form} is approximate: {loss}", file=sys.stderr)
    with writable(job.store.folder):
        store.write_head(head)
        store.append(shard.ids, scores.lengths.tolist(), columns)


def _keep_pooled(job: ScoringJob, shard: ShardPlan, scores: CompletionScores, hidden: Tensor) -> None:
    from scoreonce.pipeline.forward.embeddings import hidden_sums
    from scoreonce.stages.store.tensor_layers import VocabularyStore

    sums = hidden_sums(hidden, scores.lengths.tolist())
    with writable(job.store.folder):
        VocabularyStore(job.store.folder, POOLED).append(shard.ids, [1] * len(sums), {"hidden_sum": sums})


def _load(job: ScoringJob, work: UnscoredCompletions) -> ModelScorer:
    from scoreonce.stages.scoring.model_scorer import (
        ModelScorer,
    )  # torch, which a store with nothing to do should not wait for

    inference = ModelScorer.load(
        job.reference,
        job.compute,
        longest_row=work.longest_row,
        longest_sequence=work.longest_sequence,
        largest_token=largest_token(job.paths, job.splits),
    )
    if job.compute.attention != "auto":
        return inference
    if inference.probe.layout == "padded":
        print(f"prompts are not shared between completions: {inference.probe.reason}", file=sys.stderr)
    elif inference.probe.reason:
        print(f"{inference.probe.layout} rows, no block masks: {inference.probe.reason}", file=sys.stderr)
    return inference


def _row_reader(job: ScoringJob) -> Callable[[ShardPlan], list[PromptRow]]:
    """How the prompt rows of a shard are read from the token files."""
    from scoreonce.pipeline.batches.prompt_rows import PromptRow
    from scoreonce.stages.data.token_file import TokenFile

    files = {split: TokenFile(job.paths.tokens(split)) for split in job.splits}

    def completion(place: CompletionLocation) -> npt.NDArray[np.int32]:
        return files[place.split].row(place.donor, place.column)[: place.length]

    def row(places: list[CompletionLocation]) -> PromptRow:
        prompt = files[places[0].split].row(places[0].pair, "prompt_ids")
        return PromptRow(prompt, tuple(map(completion, places)))

    return lambda shard: [row(places) for places in shard.rows]


def _table(ids: list[str], scores: CompletionScores) -> pa.Table:
    """Rows of `CompletionScore`."""
    ends = np.concatenate(([0], np.cumsum(scores.lengths))).astype(np.int32)
    columns = {
        "completion_id": pa.array(ids, pa.string()),
        "token_logps": pa.ListArray.from_arrays(pa.array(ends), pa.array(scores.token_logps)),
        "logps": scores.logps,
        "completion_len": scores.lengths.astype(np.int32),
        "entropy": scores.entropy,
        "collision_logps": scores.collision_logps,
        "top1_hits": scores.top1_hits,
    }
    return pa.table(columns)


def _demand_finite(shard: ShardPlan, scores: CompletionScores, reference: Reference) -> None:
    bad = np.flatnonzero(~np.isfinite(scores.logps + scores.entropy + scores.collision_logps))
    if len(bad) == 0:
        return
    first = bad[0]
    raise InputError(
        "The model gives a log-prob that is not finite; nothing of this shard was stored.",
        found=f"{len(bad):,} completions, the first with log-prob {scores.logps[first]}",
        where=f"row {shard.raw_rows[first]} of the dataset, under {reference.model} in {reference.dtype}",
        fix='float16 overflowed: set reference.dtype to "bfloat16" or "float32".'
        if reference.dtype == "float16"
        else "The weights hold NaN or infinity, or give a token no probability at all: check the model.",
    )


def _say_damage(store: Store, damage: Damage) -> None:
    place = store.folder / "damaged"
    print(f"damaged shard {damage.shard.name}: {damage.reason}; moved to {place}, to be scored again", file=sys.stderr)


def _process_group(compute: Compute) -> ProcessGroup:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ProcessGroup(0, 1, lambda: None)
    from accelerate import PartialState

    state = PartialState(cpu=compute.device == "cpu")
    return ProcessGroup(state.process_index, state.num_processes, state.wait_for_everyone)


def _frame(path: Path, columns: list[str]) -> pl.DataFrame:
    frame = pl.from_arrow(read_parquet(path, columns))
    assert isinstance(frame, pl.DataFrame)
    return frame
