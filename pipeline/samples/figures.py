"""Figures of the completions of one model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.pipeline.audit.measures import tokens
from scoreonce.pipeline.audit.measures.tokens import TokenLists
from scoreonce.pipeline.samples.estimates import Estimate, ratio

AT_ONCE = 1 << 16  # lists of tokens that are measured together


@dataclass(frozen=True)
class SampleFigures:
    """Lengths are in tokens, `kl` in nats per completion, `kl_per_token` in nats per token.

    `repetition` is the mean over completions of the share of repeated 4-grams. `distinct_1` and `distinct_2` are
    distinct / all n-grams of all completions together (Li et al. 2016, arXiv 1510.03055); they
    fall with the number of completions.
    """

    prompts: int
    samples: int
    length: float  # tokens, mean
    length_median: float
    finished: float  # share that the model ended itself
    repetition: float
    distinct_1: float | None  # None without a token
    distinct_2: float | None
    kl: Estimate | None  # None without scores under the reference
    kl_per_token: Estimate | None


def figures(samples: pl.DataFrame) -> SampleFigures:
    """The figures of a table of `Sample`, which has at least one row."""
    ids = samples["completion_ids"]
    per_sequence, per_token = kl(samples) or (None, None)
    lengths = samples["completion_len"].cast(pl.Float64).to_numpy()
    return SampleFigures(
        prompts=samples["prompt_id"].n_unique(),
        samples=samples.height,
        length=float(lengths.mean()),
        length_median=float(np.median(lengths)),
        finished=float(samples["finished"].cast(pl.Float64).to_numpy().mean()),
        repetition=float(repetition(ids).to_numpy().mean()),
        distinct_1=distinct(ids, 1),
        distinct_2=distinct(ids, 2),
        kl=per_sequence,
        kl_per_token=per_token,
    )


def kl(samples: pl.DataFrame) -> tuple[Estimate, Estimate] | None:
    """The KL divergence of the sampler from the reference, from its own samples: per completion, and per token.

    The mean of log π(y) − log ref(y), y ~ π, is unbiased; a single sample may be negative. Samples of one prompt are
    not independent, so the standard error goes by prompts. None where a completion has no score under the reference.

    Of completions that were cut at max_new_tokens it is the divergence up to there.
    """
    if samples["ref_logps"].null_count():
        return None
    prompts = samples.group_by("prompt_id", maintain_order=True).agg(
        (pl.col("sampler_logps") - pl.col("ref_logps")).sum().alias("logratios"),
        pl.len().alias("samples"),
        pl.col("completion_len").cast(pl.Int64).sum().alias("tokens"),
    )
    logratios = prompts["logratios"].to_numpy()
    return ratio(logratios, prompts["samples"].to_numpy()), ratio(logratios, prompts["tokens"].to_numpy())


def repetition(ids: pl.Series) -> pl.Series:
    """`(samples,)` the share of repeated 4-grams of each list of token ids, as the audit measures it."""
    parts = [_repetition(part) for part in ids.to_frame("ids").iter_slices(AT_ONCE)]
    return pl.Series("repetition", np.concatenate(parts or [np.empty(0, np.float32)]), pl.Float64)


def _repetition(part: pl.DataFrame) -> npt.NDArray[np.float32]:
    flat, lengths = part["ids"].explode(empty_as_null=False), part["ids"].list.len().cast(pl.Int64)
    return tokens.repetition(TokenLists(flat.to_numpy().astype(np.int32), lengths.to_numpy().cumsum()))


def distinct(ids: pl.Series, n: int) -> float | None:
    """Distinct / all n-grams of tokens of all lists together; None where there is no n-gram."""
    grams = [gram for each in ids.to_list() for gram in _grams(each, n)]
    return len(set(grams)) / len(grams) if grams else None


def _grams(ids: list[int], n: int) -> list[tuple[int, ...]]:
    return list(zip(*(ids[start:] for start in range(n)), strict=False))
