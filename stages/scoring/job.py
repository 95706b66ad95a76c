"""What a scoring run is asked for, and where what it computes goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scoreonce.stages.common.paths import SPLITS, RunPaths, Split
from scoreonce.stages.config import Compute, Reference, Run, Score
from scoreonce.stages.store.codecs import POOLED
from scoreonce.stages.store.parts import Part
from scoreonce.stages.store.store import ReferenceStore

if TYPE_CHECKING:
    from scoreonce.pipeline.batches.prompt_rows import RowLayout

LONGEST_ROW = 4_096  # tokens
HIDDEN_SHARD = 256  # completions


@dataclass(frozen=True)
class ScoringJob:
    """Which pairs are scored under which model, where the scores go, and how they are computed."""

    paths: RunPaths
    splits: Sequence[Split]
    reference: Reference
    store: ReferenceStore
    compute: Compute
    score: Score
    part: Part | None = None  # only these completions, beside other processes
    layout: RowLayout | None = None  # to try first; by default that of what is stored

    @classmethod
    def of(
        cls,
        run: Run,
        *,
        splits: Sequence[Split] = SPLITS,
        reference: Reference | None = None,
        part: Part | None = None,
    ) -> ScoringJob:
        """Score `splits` under `reference`, or the run's own. Hashes the weights, once."""
        model = reference or run.reference
        return cls(RunPaths.of(run), splits, model, ReferenceStore.of(run, model), run.compute, run.score, part)

    @property
    def tensor_layers(self) -> list[str]:
        """Names of the layers that are filled besides the scores."""
        pooled = [POOLED] if self.score.embeddings else []
        return [self.score.form, *pooled] if self.score.form else pooled

    @property
    def keep_hidden(self) -> bool:
        """Whether hidden states are needed, for something to be kept of them."""
        return bool(self.tensor_layers)

    @property
    def row_tokens(self) -> int:
        """Tokens of a prompt row. Completions beyond go to another row: attention costs the square of its length."""
        return self.compute.tokens_per_microbatch or LONGEST_ROW

    @property
    def shard_completions(self) -> int:
        """Completions of a shard; fewer where hidden states are kept, which are in memory together."""
        wanted = self.score.shard_completions
        return min(wanted, HIDDEN_SHARD) if self.keep_hidden else wanted
