"""The pairs of a split with their reference sums and token ids, in the order of the prepared file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from scoreonce.stages.common.frames import frame_batches, read_frame
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.data.token_file import TokenColumn, TokenFile

PAIRS_AT_ONCE = 4096
SUMS = ["ref_chosen_logps", "ref_rejected_logps"]
IDS: tuple[TokenColumn, ...] = ("prompt_ids", "chosen_ids", "rejected_ids")
_IDENTITY = ["pair_id", "chosen_id", "rejected_id", "row", "source"]
_TEXT = ["prompt", "chosen", "rejected"]
_LENGTHS = ["chosen_len", "rejected_len"]
_TRUNCATED = ["prompt_truncated", "chosen_truncated", "rejected_truncated"]


@dataclass(frozen=True)
class Batch:
    """Some pairs of a split: their columns, and the token ids by `place`, the row of the token file."""

    pairs: pl.DataFrame
    tokens: TokenFile

    def ids(self, column: TokenColumn) -> list[list[int]]:
        """Token ids of each pair; an empty list for a side that is not there."""
        return [self.tokens.row(place, column).tolist() for place in self.pairs["place"]]

    def kept(self, condition: pl.Expr | pl.Series) -> Batch:
        """The pairs for which a condition holds."""
        return Batch(self.pairs.filter(condition), self.tokens)


def batches(paths: RunPaths, split: Split) -> Iterator[Batch]:
    """Every pair of a split, those that the data have twice included: identity, text, lengths and reference sums."""
    scores, tokens, first = read_frame(paths.reference(split), ["pair_id", *SUMS]), TokenFile(paths.tokens(split)), 0
    for pairs in frame_batches(paths.pairs(split), [*_IDENTITY, *_TEXT, *_LENGTHS, *_TRUNCATED], PAIRS_AT_ONCE):
        joined = pairs.with_row_index("place", first).join(scores, on="pair_id", how="left", maintain_order="left")
        yield Batch(joined, tokens)
        first += pairs.height


def both_sides() -> pl.Expr:
    """Whether a row is a pair: unpaired data have one completion a row."""
    return pl.col("chosen_id").is_not_null() & pl.col("rejected_id").is_not_null()
