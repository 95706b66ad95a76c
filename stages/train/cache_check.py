"""The check before the first step: a policy that is the reference must give the cached log-probs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scoreonce.pipeline.batches.microbatches import microbatches
from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.head.token_scores import TokenScores
from scoreonce.schemas.errors import InputError
from scoreonce.stages.data.reference_scores import CACHE_TOLERANCE
from scoreonce.stages.train.data import TrainingData


@dataclass(frozen=True)
class Residual:
    """Differences between the policy's and the cached log-probs on a sample, in nats per token."""

    pairs: int
    worst: float
    median: float
    mean: float


def residual(
    scorer: Callable[[Sequence[PromptRow]], TokenScores], data: TrainingData, pairs: int, budget: int, seed: int
) -> Residual:
    """Score a random sample of cached completions again and compare: chosen ones, or the only ones of unpaired data."""
    sample = np.random.default_rng(seed).permutation(len(data))[:pairs]
    places = [data.place(int(pair)) for pair in sample]
    chosen = np.array([len(data.tokens.row(i, "chosen_ids")) > 0 for i in places])
    rows = [
        PromptRow(data.tokens.row(i, "prompt_ids"), (data.tokens.row(i, "chosen_ids" if own else "rejected_ids"),))
        for i, own in zip(places, chosen, strict=True)
    ]
    differences = np.empty(len(rows))
    with torch.no_grad():  # in inference mode, a sharded model would keep tensors that training cannot use
        for batch in microbatches([row.tokens for row in rows], budget):
            sums = scorer([rows[i] for i in batch]).sums().cpu().numpy()
            sides = [
                data.columns[f"ref_{side}_logps"][sample[batch]]
                for side in ("chosen", "rejected")
                if f"ref_{side}_logps" in data.columns
            ]
            cached = np.where(chosen[batch], sides[0], sides[-1])
            differences[batch] = np.abs(sums - cached) / [len(rows[i].completions[0]) for i in batch]
    return Residual(len(rows), float(differences.max()), float(np.median(differences)), float(differences.mean()))


def require_agreement(found: Residual, dtype: str, *, experts: bool = False, differing: str = "") -> None:
    """Raise `InputError` where the difference is more than rounding.

    In a mixture of `experts`, rounding sends a token on the edge between two of them to the other, which changes its
    log-prob by some tenths of a nat. So there the median pair decides, elsewhere the worst. `differing` says what the
    cached ones were computed with, where that is something else.
    """
    # The layout that `score` takes by itself is not one that trains: scoring again as before would change nothing.
    padded = ' with compute.attention = "padded"' if "layout continued when scored" in differing else ""
    if not (found.median if experts else found.worst) <= CACHE_TOLERANCE[dtype]:  # NaN is refused too
        raise InputError(
            "The policy is the reference, but its log-probs are not the cached ones.",
            found=f"{found.worst:.1e} nats per token apart on the worst of {found.pairs} pairs, "
            f"{found.median:.1e} on the median, {found.mean:.1e} on average; {CACHE_TOLERANCE[dtype]:.0e} is rounding "
            f"in {dtype}{f'. {differing}' if differing else ''}",
            where="the check before the first step",
            fix="Train with the library versions and on the kind of device that scored, which reference/manifest.json "
            "has (another attention kernel is the likely cause), or score again here into another score.store"
            f"{padded}. If you accept the difference, set train.verify_pairs = 0.",
        )
