"""What is left to score, and what that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.rows import Extent, load_scorer, row_reader
from scoreonce.stages.scoring.unscored import UnscoredCompletions, pairs_left, unscored_completions

if TYPE_CHECKING:
    from scoreonce.stages.scoring.model_scorer import ModelScorer

# Measured on token log-probs (float32, byte-stream split, zstd 1), and the other columns of a completion.
BYTES_PER_TOKEN, BYTES_PER_COMPLETION = 3.5, 72
PROBE_SECONDS, PROBE_ROWS = 2.0, 256


@dataclass(frozen=True)
class ScoringEstimate:
    """What is left to score, and what that takes."""

    pairs: int = 0
    completions: int = 0
    tokens: int = 0
    seconds: float = 0.0
    bytes: int = 0  # on disk
    memory: int = 0  # peak bytes of a process


def estimate_scoring(job: ScoringJob) -> ScoringEstimate:
    """What `score_completions` would do, its time measured with the model on a sample.

    Completions of damaged files count as not scored. Writes nothing but the store's index.
    """
    work = unscored_completions(job)
    if len(work) == 0:
        return ScoringEstimate()
    from scoreonce.stages.common.gpu_memory import peak_bytes  # torch
    from scoreonce.stages.models.loading import resolve_device  # torch

    scorer = load_scorer(job, Extent.of(job, work))
    rate = scorer.positions_per_second(row_reader(job)(work.sample(PROBE_ROWS)), PROBE_SECONDS)
    scores = int(BYTES_PER_TOKEN * work.completion_tokens + BYTES_PER_COMPLETION * len(work))
    disk = scores + tensor_bytes(job, scorer, work)
    memory = peak_bytes(resolve_device(job.compute.device))
    pairs = pairs_left(job, work)
    return ScoringEstimate(pairs, len(work), work.tokens, work.tokens / rate, disk, memory)


def tensor_bytes(job: ScoringJob, scorer: ModelScorer, work: UnscoredCompletions) -> int:
    """Disk that whole distributions and pooled states of the unscored completions take."""
    from scoreonce.pipeline.head.int8_states import int8_bytes  # torch

    width, element = scorer.head().weight.shape[1], scorer.head().weight.element_size()
    states = int8_bytes(width) if job.score.hidden == "int8" else width * element
    per_token = {"none": 0, "hidden": states, "topk": 6 * job.score.topk + 2}[job.score.full_vocab]
    return per_token * work.completion_tokens + (4 * width * len(work) if job.score.embeddings else 0)
