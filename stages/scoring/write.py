"""One scored shard into every layer that the job fills."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Reference
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.unscored import ShardPlan
from scoreonce.stages.store.codecs import TensorBlock
from scoreonce.stages.store.index import packed
from scoreonce.stages.store.store import POOLED

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from torch import Tensor

    from scoreonce.stages.scoring.model_scorer import CompletionScores, ModelScorer


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shards of one process."""

    job: ScoringJob
    scorer: ModelScorer
    provenance: dict[str, Any]

    def write(self, shard: ShardPlan, scores: CompletionScores, hidden: Tensor | None) -> None:
        """Append a shard to the layers, `hidden` (tokens, d) being the hidden states where they are needed."""
        # Tensors before scores: a completion counts as done with both, and most readers look at the scores alone.
        if self.job.score.form and hidden is not None:
            self._append_distributions(self.job.score.form, shard, scores, hidden)
        if self.job.score.embeddings and hidden is not None:
            self._append_pooled(shard, scores, hidden)
        self.job.store.append(_table(shard.ids, scores), self.provenance, mark=self._mark)

    @property
    def _mark(self) -> str:
        return self.job.part.mark if self.job.part else ""

    def _append_distributions(self, form: str, shard: ShardPlan, scores: CompletionScores, hidden: Tensor) -> None:
        layer, columns = self.job.store.tensors(form), {"hidden": hidden}
        if form != "hidden":
            top = self.scorer.top_k(hidden, self.job.score.topk)
            columns = {"ids": top.ids, "logps": top.logps}
            if not layer.files():
                loss = f"{top.divergence.mean():.2e} nats of KL per token in the first shard"
                logger.warning(f"{form} is approximate: {loss}")
        layer.append(TensorBlock(packed(shard.ids), scores.lengths, columns), self.provenance, mark=self._mark)

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
