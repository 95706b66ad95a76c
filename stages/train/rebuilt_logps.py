"""The reference's log-probs, rebuilt from hidden states during training, against those that `score` stored.

Training rebuilds the reference's next-token distributions anyway, so the comparison needs no forward pass of its own.
It covers what no digest can: a head or hidden states that are not those of this reference, and a head that was written
by version 0.1, without a digest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward.token_scores import TokenScores, sum_per_completion
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.store.index import Ids, packed
from scoreonce.stages.train.cache_check import CACHE_TOLERANCE

Scorer = Callable[..., TokenScores]


@dataclass(frozen=True)
class CachedLogps:
    """The cached log-probs of the training completions, by id."""

    ids: Ids  # (completions,), sorted
    logps: npt.NDArray[np.float64]  # (completions,) nats, summed
    tolerance: float  # nats per token, mean over a completion

    @classmethod
    def of(cls, run: Run) -> CachedLogps:
        """Those of the pair table that `score` wrote."""
        sides = ("chosen", "rejected")
        names = [f"{side}_id" for side in sides] + [f"ref_{side}_logps" for side in sides]
        table = read_frame(RunPaths.of(run).reference("train"), names)
        parts = [table.select(id=f"{side}_id", logps=f"ref_{side}_logps").drop_nulls() for side in sides]
        whole = pl.concat(parts).unique("id").sort("id")  # hex digits sort as the bytes do
        return cls(packed(whole["id"].to_list()), whole["logps"].to_numpy(), CACHE_TOLERANCE[run.reference.dtype])

    def require_agreement(self, rows: Sequence[PromptRow], scored: TokenScores) -> None:
        """Raise `InputError` where the rebuilt log-probs of a micro-batch are not the cached ones, within rounding."""
        assert scored.reference_logps is not None
        names = [completion_id(row.prompt, completion) for row in rows for completion in row.completions]
        ids = packed(names)
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        rebuilt = sum_per_completion(scored.reference_logps, scored.lengths).cpu().numpy()
        apart = np.abs(rebuilt - self.logps[at]) / scored.lengths.cpu().numpy()
        wrong = (self.ids[at] == ids) & ~(apart <= self.tolerance)  # NaN disagrees too
        if wrong.any():
            worst = int(np.where(wrong, np.nan_to_num(apart, nan=np.inf), -1).argmax())
            raise InputError(
                "The reference log-probs rebuilt from hidden states are not the cached ones.",
                found=f"{apart[worst]:.1e} nats per token apart; {self.tolerance:.0e} is rounding",
                where=f"completion {names[worst]} of the training pairs",
                fix="The stored hidden states or the stored head are not those of the reference. Remove the folder "
                'hidden of the store and run `scoreonce score` with score.full_vocab = "hidden" again.',
            )


def checked(scorer: Scorer, run: Run) -> Scorer:
    """The scorer, with a comparison after each forward that rebuilds the reference from stored hidden states."""
    if run.train.full_vocab != "hidden":
        return scorer
    cached: list[CachedLogps] = []  # read at the first forward that needs it

    def score(rows: Sequence[PromptRow], **options: object) -> TokenScores:
        scored = scorer(rows, **options)
        if scored.reference_logps is not None:
            if not cached:
                cached.append(CachedLogps.of(run))
            cached[0].require_agreement(rows, scored)
        return scored

    return score
