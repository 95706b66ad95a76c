"""Scoring some pairs again, to see whether imported sums are those of the run's reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data.reference_scores import CACHE_TOLERANCE
from scoreonce.stages.data.token_file import TokenFile, largest_token

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Verified:
    """How many pairs were scored again, and how far the sums are apart, in nats per token."""

    pairs: int
    worst: float
    median: float


def model_is_here(run: Run) -> bool:
    """Whether the reference is a local folder, or in the Hub's cache: nothing is downloaded to verify."""
    if Path(run.reference.model).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(run.reference.model, "config.json", revision=run.reference.revision)
    except HFValidationError:
        return False
    return isinstance(found, str)


def verify(run: Run, pairs: pl.DataFrame) -> Verified:
    """Score some of the `pairs` with the reference and compare the sums.

    `pairs` has `place`, the row of the token file of the training pairs, lengths and imported sums. The longest are
    among those that are scored: a sum over fewer tokens shows there. Raises `InputError` where the sums are apart by
    more than rounding.
    """
    import torch  # with the model, which an import without a check does without

    from scoreonce.pipeline.batches.prompt_rows import PromptRow
    from scoreonce.pipeline.forward import architecture
    from scoreonce.stages.scoring.model_scorer import ModelScorer

    torch.manual_seed(run.train.seed)
    paths, chosen = RunPaths.of(run), _sample(pairs, run.train.verify_pairs, run.train.seed)
    tokens = TokenFile(paths.tokens("train"))
    rows = [
        PromptRow(
            tokens.row(place, "prompt_ids"),
            tuple(ids for ids in (tokens.row(place, "chosen_ids"), tokens.row(place, "rejected_ids")) if len(ids)),
        )
        for place in chosen["place"]
    ]
    scorer = ModelScorer.load(
        run.reference,
        run.compute.model_copy(update={"shard": "none"}),
        longest_row=max(row.tokens for row in rows),
        longest_sequence=max(len(row.prompt) + max(map(len, row.completions)) for row in rows),
        largest_token=largest_token(paths.tokens("train")),
    )
    scored = scorer.score(rows, lambda completions, positions: None).scores
    imported = [value for pair in chosen.select([f"ref_{side}_logps" for side in SIDES]).iter_rows() for value in pair]
    apart = np.abs(scored.logps - [value for value in imported if value is not None]) / scored.lengths
    found = Verified(len(rows), float(apart.max()), float(np.median(apart)))
    experts = architecture.has_experts(architecture.causal_lm(scorer.scorer.model))
    _require_agreement(run, found, found.median if experts else found.worst)
    return found


def _sample(pairs: pl.DataFrame, count: int, seed: int) -> pl.DataFrame:
    """So many pairs: the longest one, and others at random."""
    order = np.random.default_rng(seed).permutation(pairs.height)
    longest = pairs.select(pl.max_horizontal("chosen_len", "rejected_len") + pl.col("prompt_len")).to_series().arg_max()
    assert longest is not None
    return pairs[list(dict.fromkeys([longest, *order.tolist()]))[:count]]


def _require_agreement(run: Run, found: Verified, decisive: float) -> None:
    tolerance = CACHE_TOLERANCE[run.reference.dtype]
    if not decisive <= tolerance:  # NaN is refused too
        raise InputError(
            "The imported log-probs are not those of the run's reference.",
            found=f"{found.worst:.1e} nats per token apart on the worst of {found.pairs} pairs, {found.median:.1e} on "
            f"the median; {tolerance:.0e} is rounding in {run.reference.dtype}",
            where=f"{run.reference.model}, on pairs that were scored again",
            fix="Set [reference] to the model, adapter and dtype that made them, and --max-length to that run's "
            "DPOConfig.max_length; or run `scoreonce score`. If you accept the difference, set train.verify_pairs = 0.",
        )
