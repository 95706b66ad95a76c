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
from torch import Tensor

from scoreonce.pipeline.batches.device_transfer import read_later
from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.head.token_scores import TokenScores, sum_per_completion
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id
from scoreonce.schemas.manifests import ReferenceManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.frames import frame_batches
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data.reference_scores import CACHE_TOLERANCE
from scoreonce.stages.store.codecs import HIDDEN_INT8
from scoreonce.stages.store.index import Ids, Index, packed, packed_column
from scoreonce.stages.store.store import ReferenceStore, setting_of
from scoreonce.stages.store.tensor_rows import largest_error

Scorer = Callable[..., TokenScores]


@dataclass(frozen=True)
class CachedLogps:
    """The cached log-probs of the training completions, by id."""

    ids: Ids  # (completions,), sorted
    logps: npt.NDArray[np.float64]  # (completions,) nats, summed
    tolerance: float  # nats per token, mean over a completion
    states: str = "hidden"  # the layer of the store that they are compared with

    @classmethod
    def of(cls, run: Run) -> CachedLogps:
        """Those of the pair table that `score` wrote."""
        sides = ("chosen", "rejected")
        names = [f"{side}_id" for side in sides] + [f"ref_{side}_logps" for side in sides]
        ids, logps = [], []
        for table in frame_batches(RunPaths.of(run).reference("train"), names):
            for side in sides:
                there = table.select(id=f"{side}_id", logps=f"ref_{side}_logps").drop_nulls()
                ids.append(packed_column(there["id"]))
                logps.append(there["logps"].to_numpy())
        index = Index.of(np.concatenate(ids))
        tolerance = CACHE_TOLERANCE[run.reference.dtype] + _approximation(run)
        return cls(index.ids, np.concatenate(logps)[index.rows], tolerance, _states_of(run))

    def require_agreement(
        self, completions: Sequence[str], rebuilt: npt.NDArray[np.float64], lengths: npt.NDArray[np.int64]
    ) -> None:
        """Raise `InputError` where the rebuilt log-probs of some completions are not the cached ones, within rounding.

        `completions` are their ids, `rebuilt` (completions,) the sums of their log-probs in nats, `lengths` their
        tokens. A completion that is not cached is passed over.
        """
        ids = packed(completions)
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        apart = np.abs(rebuilt - self.logps[at]) / lengths
        wrong = (self.ids[at] == ids) & ~(apart <= self.tolerance)  # NaN disagrees too
        if wrong.any():
            worst = int(np.where(wrong, np.nan_to_num(apart, nan=np.inf), -1).argmax())
            raise InputError(
                "The reference log-probs rebuilt from hidden states are not the cached ones.",
                found=f"{apart[worst]:.1e} nats per token apart; {self.tolerance:.0e} is rounding"
                f"{' and 8 bits' if self.states == HIDDEN_INT8 else ''}",
                where=f"completion {completions[worst]} of the training pairs",
                fix="The stored hidden states or the stored head are not those of the reference. Remove the folder "
                f"{self.states} of the store and run `scoreonce score` with {setting_of(self.states)} again.",
            )


def _states_of(run: Run) -> str:
    return run.score.layer_of("hidden")


def _approximation(run: Run) -> float:
    """What 8 bits may add, in nats per token.

    The mean over a completion is not above the largest error of one token; that is known of the shards that `score`
    measured, and other shards may have one that is larger, so twice as much is allowed.
    """
    if _states_of(run) != HIDDEN_INT8:
        return 0.0
    paths = RunPaths.of(run)
    store = ReferenceStore.of_key(paths, manifests.read(ReferenceManifest, paths.reference_manifest).store_key)
    return 2 * largest_error(store.tensors(HIDDEN_INT8))


class Comparison:
    """A scorer that keeps what it rebuilt of the reference, for a comparison once per step.

    Comparing after each forward would make a GPU wait for every micro-batch.
    """

    def __init__(self, scorer: Scorer, run: Run) -> None:
        self._scorer, self._run = scorer, run
        self._compares = run.train.full_vocab == "hidden"
        self._pending: list[tuple[Sequence[PromptRow], Callable[[], list[Tensor]]]] = []
        self._cached: CachedLogps | None = None  # read at the first comparison

    def __call__(self, rows: Sequence[PromptRow], **options: object) -> TokenScores:
        """The scores of the wrapped scorer; the rebuilt log-probs, if any, are compared later."""
        scored = self._scorer(rows, **options)
        if self._compares and scored.reference_logps is not None:
            rebuilt = sum_per_completion(scored.reference_logps, scored.lengths)
            self._pending.append((rows, read_later([rebuilt])))
        return scored

    def require_agreement(self) -> None:
        """Raise `InputError` where a micro-batch since the last call gave other log-probs than the cached ones."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        if self._cached is None:
            self._cached = CachedLogps.of(self._run)
        completions = [
            (row.prompt, completion) for rows, _ in pending for row in rows for completion in row.completions
        ]
        self._cached.require_agreement(
            [completion_id(prompt, completion) for prompt, completion in completions],
            np.concatenate([read()[0].numpy() for _, read in pending]),
            np.array([len(completion) for _, completion in completions]),
        )
