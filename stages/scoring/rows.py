"""From a plan to what the model reads: the loaded scorer, and the prompt rows of a shard."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from scoreonce.stages.data.token_file import largest_token
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.shards import CompletionLocation, ShardPlan
from scoreonce.stages.scoring.unscored import UnscoredCompletions

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from scoreonce.pipeline.batches.prompt_rows import PromptRow
    from scoreonce.stages.scoring.model_scorer import ModelScorer


def load_scorer(job: ScoringJob, work: UnscoredCompletions) -> ModelScorer:
    """Load the model of a job. Where prompts cannot be shared or rows not packed, the reason is printed."""
    from scoreonce.stages.scoring.model_scorer import ModelScorer  # torch, not needed where nothing is left to score

    scorer = ModelScorer.load(
        job.reference,
        job.compute,
        longest_row=work.longest_row,
        longest_sequence=work.longest_sequence,
        largest_token=max(largest_token(job.paths.tokens(split)) for split in job.splits),
    )
    if job.compute.attention != "auto":
        return scorer
    if scorer.probe.layout == "padded":
        logger.warning(f"prompts are not shared between completions: {scorer.probe.reason}")
    elif scorer.probe.reason:
        logger.warning(f"{scorer.probe.layout} rows, no block masks: {scorer.probe.reason}")
    return scorer


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
