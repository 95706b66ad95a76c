"""Completions in prompt rows and shards: how they are scored together. No tensors here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.stages.common.paths import Split
from scoreonce.stages.store.parts import prompt_bits

if TYPE_CHECKING:
    from scoreonce.stages.data.token_file import TokenColumn


class CompletionLocation(NamedTuple):
    """Where the token ids of a completion are: the row of its prompt, its own row and column, and its length."""

    split: Split
    pair: int
    donor: int  # another pair's row where the completion is another prompt's
    column: TokenColumn
    length: int


@dataclass(frozen=True)
class ShardPlan:
    """Completions that are scored and stored together: their ids, raw rows, and locations grouped by prompt row."""

    ids: list[str]
    raw_rows: list[int]
    rows: list[list[CompletionLocation]]


@dataclass(frozen=True)
class PlannedCompletions:
    """Completions in order of scoring, none twice.

    `completions` has completion_id, split, pair, donor, column, row, prompt_len, completion_len, prompt_bits (which
    decide the part), prompt_row (number of the prompt row), row_tokens (positions that row takes); `bounds` are the
    first completions of the shards, and the end.
    """

    completions: pl.DataFrame
    bounds: list[int]

    @classmethod
    def of(cls, completions: pl.DataFrame, row_tokens: int, shard_completions: int) -> PlannedCompletions:
        """Completions of one prompt share a row of at most `row_tokens` positions. Rows are sorted longest first:
        memory runs out at once or never, and what an interrupted run left over falls into the same shards as before.
        """
        rows = completions.pipe(_into_rows, row_tokens).pipe(_longest_first)
        return cls(rows, _bounds(rows.get_column("prompt_row").to_numpy(), shard_completions))

    def totals(self, number: int) -> Totals:
        """What is to be known of them while they are not in memory."""
        frame = self.completions
        rows, lengths = frame.unique("prompt_row").get_column("row_tokens"), frame.get_column("completion_len")
        longest = frame.select((pl.col("prompt_len") + pl.col("completion_len") - 1).max()).item()
        return Totals(
            number, int(rows.sum()), int(lengths.sum()), int(frame["row_tokens"][0]), int(longest), self.bounds
        )

    def shard(self, number: int) -> ShardPlan:
        """One of the shards."""
        return _shard(self.completions[self.bounds[number] : self.bounds[number + 1]])

    def sample(self, rows: int) -> ShardPlan:
        """Up to `rows` prompt rows, spread evenly over the lengths."""
        number = pl.col("prompt_row")
        count = int(self.completions.select(number.max() + 1).item())
        picked = np.unique(np.linspace(0, count - 1, min(rows, count)).astype(np.int64))
        return _shard(self.completions.filter(number.is_in(picked.tolist())))


class Totals(NamedTuple):
    """Sums and maxima of planned completions."""

    number: int  # which bucket they are
    tokens: int  # positions of all prompt rows
    completion_tokens: int
    longest_row: int  # positions
    longest_sequence: int  # positions of a prompt with one completion (the last token is only predicted)
    bounds: list[int]  # of the shards

    @property
    def completions(self) -> int:
        """How many there are."""
        return self.bounds[-1]

    @property
    def sizes(self) -> Iterator[int]:
        """Completions of each shard."""
        return (stop - start for start, stop in pairwise(self.bounds))


def _into_rows(frame: pl.DataFrame, row_tokens: int) -> pl.DataFrame:
    """Adds prompt_row and row_tokens. A prompt with too many completions takes several rows."""
    added = pl.col("completion_len") - 1
    before = added.cum_sum().over("prompt_id") - added
    whole = pl.col("prompt_len") + added.sum().over("prompt_id")
    # A piece may exceed its room by its last completion, so the room is smaller by the longest.
    room = (row_tokens - pl.col("prompt_len") - added.max().over("prompt_id")).clip(lower_bound=1)
    piece = pl.when(whole <= row_tokens).then(0).otherwise(before // room)
    group = ["prompt_id", "piece"]
    return (
        frame.with_columns(piece=piece)
        .with_columns(
            row_tokens=pl.col("prompt_len") + added.sum().over(group),
            position=pl.int_range(pl.len(), dtype=pl.UInt32),
        )
        .with_columns(prompt_row=pl.col("position").min().over(group))
    )


def _longest_first(frame: pl.DataFrame) -> pl.DataFrame:
    return (
        frame.sort("row_tokens", "prompt_row", "position", descending=[True, False, False])
        .with_columns(prompt_row=pl.col("prompt_row").rle_id(), prompt_bits=prompt_bits("prompt_id"))
        .drop("prompt_id", "piece", "position")
    )


def _bounds(prompt_row: npt.NDArray[np.uint32], shard_completions: int) -> list[int]:
    """First completion of each shard, and the end: whole prompt rows, at least `shard_completions` completions each."""
    starts = np.flatnonzero(np.diff(prompt_row, prepend=np.int64(-1)))
    bounds = [0]
    while bounds[-1] < len(prompt_row):
        following = np.searchsorted(starts, bounds[-1] + shard_completions)
        bounds.append(int(starts[following]) if following < len(starts) else len(prompt_row))
    return bounds


def _shard(part: pl.DataFrame) -> ShardPlan:
    places = part.select("prompt_row", "split", "pair", "donor", "column", "completion_len").iter_rows()
    rows = [[CompletionLocation(*place[1:]) for place in row] for _, row in groupby(places, key=lambda place: place[0])]
    return ShardPlan(part.get_column("completion_id").to_list(), part.get_column("row").to_list(), rows)
