"""From a plan to what the model reads: the loaded scorer, and the prompt rows of a shard."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from scoreonce.stages.config import Compute
from scoreonce.stages.data.token_file import largest_token
from scoreonce.stages.models.forward_record import single_layout
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.shards import CompletionLocation, ShardPlan
from scoreonce.stages.scoring.unscored import UnscoredCompletions

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from scoreonce.pipeline.batches.prompt_rows import PromptRow, RowLayout
    from scoreonce.stages.scoring.model_scorer import ModelScorer


class Extent(NamedTuple):
    """What the model of a job has to take."""

    longest_row: int  # positions
    longest_sequence: int  # positions of a prompt with one completion
    largest_token: int

    @classmethod
    def of(cls, job: ScoringJob, work: UnscoredCompletions) -> Extent:
        """What the unscored completions ask for."""
        largest = max(largest_token(job.paths.tokens(split)) for split in job.splits)
        return cls(work.longest_row, work.longest_sequence, largest)


def load_scorer(job: ScoringJob, extent: Extent) -> ModelScorer:
    """Load the model of a job. Where prompts cannot be shared or rows not packed, the reason is printed."""
    from scoreonce.stages.scoring.model_scorer import ModelScorer  # torch, not needed where nothing is left to score

    compute = _with_shard(job)
    scorer = ModelScorer.load(
        job.reference,
        compute,
        longest_row=extent.longest_row,
        longest_sequence=extent.longest_sequence,
        largest_token=extent.largest_token,
        first=job.layout or _stored_layout(job),
    )
    if job.compute.attention != "auto":
        return scorer
    if scorer.probe.layout == "continued":
        logger.warning(f"completions go on from the model's cache of their prompt: {scorer.probe.reason}")
    elif scorer.probe.layout == "padded":
        logger.warning(f"prompts are not shared between completions: {scorer.probe.reason}")
    elif scorer.probe.reason:
        logger.warning(f"{scorer.probe.layout} rows, no block masks: {scorer.probe.reason}")
    return scorer


def _with_shard(job: ScoringJob) -> Compute:
    """The job's [compute] with shard = "auto" decided."""
    from scoreonce.pipeline.memory.peaks import Peak
    from scoreonce.stages.memory import peaks
    from scoreonce.stages.memory.peaks import Sharing
    from scoreonce.stages.models.loading import resolve_device
    from scoreonce.stages.sharded.choice import choose_shard
    from scoreonce.stages.sharded.limits import require_all_bits

    def peak(sharing: Sharing) -> Peak:
        counted = peaks.counted_scoring(
            job.reference,
            job.compute,
            job.paths,
            shard_completions=job.score.shard_completions,
            splits=job.splits,
        )
        return peaks.scoring(job.reference, job.compute, counted, sharing)

    device = resolve_device(job.compute.device)
    require = partial(require_all_bits, job.reference, f"compute.shard = {job.compute.shard!r}")
    chosen = choose_shard(job.compute, device, "scoring", peak, require=require)
    return job.compute.model_copy(update={"shard": chosen})


def _stored_layout(job: ScoringJob) -> RowLayout | None:
    """The layout of the newest shard, in which what is still missing is scored too."""
    shards = job.store.shards()
    return single_layout(job.store.sidecar(shards[-1])["provenance"].get("layout", "")) if shards else None


def row_reader(job: ScoringJob) -> Callable[[ShardPlan], list[PromptRow]]:
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
