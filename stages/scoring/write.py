"""One scored shard into every layer that the job fills."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Reference
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.shards import ShardPlan
from scoreonce.stages.store.codecs import POOLED, TensorBlock
from scoreonce.stages.store.index import packed
from scoreonce.stages.store.tensor_rows import APPROXIMATION

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from torch import Tensor

    from scoreonce.pipeline.batches.prompt_rows import PromptRow
    from scoreonce.stages.scoring.distributions import Errors
    from scoreonce.stages.scoring.model_scorer import CompletionScores, ModelScorer


@dataclass
class ShardWriter:
    """Writes the shards of one process.

    Where what is kept of distributions is approximate, its errors over the first shard are printed, and stand in the
    provenance of all.
    """

    job: ScoringJob
    scorer: ModelScorer
    provenance: dict[str, Any]
    errors: Errors | None = None

    def write(
        self, shard: ShardPlan, rows: Sequence[PromptRow], scores: CompletionScores, hidden: Tensor | None
    ) -> None:
        """Append a shard to the layers, `hidden` (tokens, d) being the hidden states where they are needed.

        `rows` are the prompt rows of the shard.
        """
        # Tensors before scores: a completion counts as done with both, and most readers look at the scores alone.
        if self.job.score.form and hidden is not None:
            self._append_distributions(self.job.score.form, shard, rows, scores, hidden)
        if self.job.score.embeddings and hidden is not None:
            self._append_pooled(shard, scores, hidden)
        self.job.store.append(_table(shard.ids, scores), self.provenance, mark=self._mark)

    @property
    def _mark(self) -> str:
        return self.job.part.mark if self.job.part else ""

    def _append_distributions(
        self, form: str, shard: ShardPlan, rows: Sequence[PromptRow], scores: CompletionScores, hidden: Tensor
    ) -> None:
        import torch

        from scoreonce.stages.scoring.distributions import error_text, kept_of

        targets = np.concatenate([completion for row in rows for completion in row.completions]).astype(np.int64)
        kept = kept_of(self.job.score, self.scorer, hidden, torch.from_numpy(targets), measure=self.errors is None)
        if kept.errors is not None:
            self.errors = kept.errors
            logger.warning(error_text(form, kept.errors))
        provenance = self.provenance if self.errors is None else {**self.provenance, APPROXIMATION: self.errors}
        block = TensorBlock(packed(shard.ids), scores.lengths, kept.columns)
        self.job.store.tensors(form).append(block, provenance, mark=self._mark)

    def _append_pooled(self, shard: ShardPlan, scores: CompletionScores, hidden: Tensor) -> None:
        from scoreonce.pipeline.forward.embeddings import hidden_sums

        sums = hidden_sums(hidden, scores.lengths.tolist())
        block = TensorBlock(packed(shard.ids), np.ones(len(sums), np.int64), {"hidden_sum": sums})
        self.job.store.tensors(POOLED).append(block, self.provenance, mark=self._mark)


def require_finite(shard: ShardPlan, scores: CompletionScores, reference: Reference) -> None:
    """Raise `InputError` where a score is not a finite number."""
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
