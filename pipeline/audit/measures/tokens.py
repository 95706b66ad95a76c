"""Measures of the token ids of pairs, one record batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.pipeline.audit.measures.ragged import Ragged, distinct_counts, numbered
from scoreonce.pipeline.audit.measures.words import ngrams

REPEATED = 4  # tokens of the n-grams that are counted for repetition


@dataclass(frozen=True)
class SpecialIds:
    """The control tokens of a tokenizer; `ends` are those that end a completion."""

    bos: int | None
    ends: tuple[int, ...]
    every: npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenLists:
    """The ids of one column: flat, with the end of each list."""

    ids: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(pairs,)."""
        return np.diff(self.ends, prepend=0)

    def at(self, place: int) -> npt.NDArray[np.int64]:
        """The id at a place from the start, or from the end if negative; -1 where the list is too short."""
        start = self.ends - self.lengths
        index = (self.ends if place < 0 else start) + place
        inside = (index >= start) & (index < self.ends)
        return np.where(inside, np.append(self.ids, -1)[np.where(inside, index, -1)], -1)

    def count(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many tokens of each list are among `ids`; (pairs,)."""
        sums = np.concatenate([[0], np.cumsum(np.isin(self.ids, ids))])
        return sums[self.ends] - sums[self.ends - self.lengths]


def measure(prompt: TokenLists, chosen: TokenLists, rejected: TokenLists, special: SpecialIds | None) -> pl.DataFrame:
    """Token counts and repetition of each side; without the tokenizer's `special` ids, the columns about them are null.

    `*_repetition` is that of `repetition`.
    """
    lists = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    counts = [pl.Series(f"{side}_tokens", lists[side].lengths.astype(np.int32)) for side in lists]
    repeated = [pl.Series(f"{side}_repetition", repetition(lists[side])) for side in ("chosen", "rejected")]
    return pl.DataFrame([*counts, *repeated]).with_columns(_special(prompt, chosen, rejected, special))


def repetition(lists: TokenLists) -> npt.NDArray[np.float32]:
    """1 − distinct / all 4-grams of the token ids of each list, 0 for fewer than four tokens; (lists,).

    seq-rep-4 of Welleck et al. 2019, arXiv 1908.04319. At most 2²⁰ lists at a time.
    """
    grams = ngrams(Ragged(lists.ids.astype(np.uint64), lists.ends), REPEATED)
    share = 1 - distinct_counts(numbered(grams), len(grams)) / np.maximum(grams.lengths, 1)
    return np.where(grams.lengths > 0, share, 0).astype(np.float32)


def _special(
    prompt: TokenLists, chosen: TokenLists, rejected: TokenLists, special: SpecialIds | None
) -> list[pl.Expr | pl.Series]:
    names = (
        "double_bos",
        "chosen_ends_in_eos",
        "rejected_ends_in_eos",
        "special_id_in_completion",
        "special_id_in_prompt",
    )
    if special is None:
        return [pl.lit(None, pl.Boolean).alias(name) for name in names]
    bos = -2 if special.bos is None else special.bos
    leads = prompt.at(0) == bos
    twice = leads & (prompt.at(1) == bos)
    double = twice | (bos not in special.ends) & ((chosen.at(0) == bos) | (rejected.at(0) == bos))
    chosen_ends, rejected_ends = (np.isin(side.at(-1), special.ends) for side in (chosen, rejected))
    # A side that a row does not have lacks no end.
    ends = {"chosen": chosen_ends | (chosen.lengths == 0), "rejected": rejected_ends | (rejected.lengths == 0)}
    inside = sum(side.count(special.every) for side in (chosen, rejected)) - chosen_ends - rejected_ends
    values = (double, ends["chosen"], ends["rejected"], inside > 0, prompt.count(special.every) - leads - twice > 0)
    return [pl.Series(name, value) for name, value in zip(names, values, strict=True)]
