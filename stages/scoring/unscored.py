"""The plan: which completions of the pairs are still to be scored, in prompt rows and shards. No tensors here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.data.mismatched import mismatched_completions
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.store.parts import Part, parts_of, prompt_bits

if TYPE_CHECKING:
    from scoreonce.stages.data.token_file import TokenColumn

_PAIR_COLUMNS = ["row", "chosen_id", "rejected_id", "prompt_id", "prompt_len", "chosen_len", "rejected_len"]


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
class UnscoredCompletions:
    """Unscored completions, each once, in order of scoring.

    `completions` has completion_id, split, pair, donor, column, row, prompt_len, completion_len, prompt_bits (which
    decide the part), prompt_row (number of the prompt row), row_tokens (positions that row takes); `bounds` are the
    first completions of the shards, and the end.
    """

    completions: pl.DataFrame
    bounds: list[int]
    wanted: int

    def __len__(self) -> int:
        return self.completions.height

    @property
    def tokens(self) -> int:
        """Positions of all prompt rows."""
        return int(self.completions.unique("prompt_row").get_column("row_tokens").sum())

    @property
    def completion_tokens(self) -> int:
        """Tokens of all completions."""
        return int(self.completions.get_column("completion_len").sum())

    @property
    def longest_row(self) -> int:
        """Positions of the longest prompt row."""
        return int(self.completions.get_column("row_tokens")[0])

    @property
    def longest_sequence(self) -> int:
        """Positions of the longest prompt with one completion (the last token is only predicted)."""
        return int(self.completions.select((pl.col("prompt_len") + pl.col("completion_len") - 1).max()).item())

    def parts(self, of: int) -> list[Part]:
        """The parts, of so many, that hold one of them."""
        return parts_of(self.completions.get_column("prompt_bits"), of)

    def shards(self, rank: int = 0, world: int = 1) -> Iterator[ShardPlan]:
        """The shards of one of `world` processes."""
        for start, stop in list(pairwise(self.bounds))[rank::world]:
            yield _shard(self.completions[start:stop])

    def rounds(self, world: int = 1) -> int:
        """Shards of the process that has the most."""
        return math.ceil((len(self.bounds) - 1) / world)

    def share(self, rank: int, world: int) -> int:
        """Completions in the shards of one process."""
        return sum(stop - start for start, stop in list(pairwise(self.bounds))[rank::world])

    def sample(self, rows: int) -> ShardPlan:
        """Up to `rows` prompt rows, spread evenly over the lengths."""
        number = pl.col("prompt_row")
        count = int(self.completions.select(number.max() + 1).item())
        picked = np.unique(np.linspace(0, count - 1, min(rows, count)).astype(np.int64))
        return _shard(self.completions.filter(number.is_in(picked.tolist())))


def unscored_completions(job: ScoringJob) -> UnscoredCompletions:
    """What the store of a job lacks of the completions of its pairs, or of its part of them.

    With `score.mismatched` each training prompt's mismatched completion is among them. Completions of one prompt share
    a row of at most `job.row_tokens` positions. Rows are sorted longest first: memory runs out at once or never, and
    what an interrupted run left over falls into the same shards as before.
    """
    wanted = completions(job.paths, job.splits, mismatches=job.score.mismatched)
    if job.part is not None:
        wanted = wanted.filter(job.part.holds("prompt_id"))
    stored = job.store.holds(wanted.get_column("completion_id"), job.tensor_layers)
    rows = wanted.filter(~stored).pipe(_into_rows, job.row_tokens).pipe(_longest_first)
    bounds = _bounds(rows.get_column("prompt_row").to_numpy(), job.shard_completions)
    return UnscoredCompletions(rows, bounds, wanted.height)


def missing_completions(job: ScoringJob) -> int:
    """How many completions of the pairs the store lacks, of all parts."""
    wanted = completions(job.paths, job.splits, mismatches=job.score.mismatched)
    return int((~job.store.holds(wanted.get_column("completion_id"), job.tensor_layers)).sum())


def completions(paths: RunPaths, splits: Sequence[Split], *, mismatches: bool = False) -> pl.DataFrame:
    """Every distinct completion of the pairs of `splits`, at its first occurrence."""
    return _occurrences(paths, splits, mismatches).unique("completion_id", keep="first", maintain_order=True)


def pairs_left(paths: RunPaths, splits: Sequence[Split], work: UnscoredCompletions, *, mismatches: bool = False) -> int:
    """Pairs with at least one unscored completion."""
    left = _occurrences(paths, splits, mismatches).join(work.completions, on="completion_id", how="semi")
    return left.n_unique(["split", "pair"])


def largest_token(paths: RunPaths, splits: Sequence[Split]) -> int:
    """The largest token id in the token files of `splits`."""
    largest = -1
    for split in splits:
        reader = pa.ipc.open_file(pa.memory_map(str(paths.tokens(split))))
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            ids = (pc.max(batch.column(name).values).as_py() for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
            largest = max(largest, *(-1 if value is None else value for value in ids))
    return largest


def _pairs(paths: RunPaths, split: Split) -> pl.DataFrame:
    return read_frame(paths.pairs(split), _PAIR_COLUMNS)


def _occurrences(paths: RunPaths, splits: Sequence[Split], mismatches: bool) -> pl.DataFrame:
    """The completions of every pair, at each occurrence."""
    parts = []
    for split in splits:
        pairs = _pairs(paths, split).with_row_index("pair")
        own = pairs.with_columns(donor="pair")
        parts += [_side(own.with_columns(column=pl.lit(f"{side}_ids")), split, side) for side in ("chosen", "rejected")]
        if mismatches and split == "train":  # what is held out is ranked, not trained on
            met = mismatched_completions(paths, split).rename({"kl_id": "chosen_id", "kl_len": "chosen_len"})
            parts.append(_side(pairs.drop("chosen_id", "chosen_len").hstack(met), split, "chosen"))
    return pl.concat(parts)


def _side(pairs: pl.DataFrame, split: Split, side: str) -> pl.DataFrame:
    return pairs.filter(pl.col(f"{side}_id").is_not_null()).select(
        pl.col(f"{side}_id").alias("completion_id"),
        pl.lit(split).alias("split"),
        "pair",
        "donor",
        "column",
        "row",
        "prompt_id",
        "prompt_len",
        pl.col(f"{side}_len").alias("completion_len"),
    )


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
        .with_columns(prompt_row=pl.col("prompt_row").rle_id())
        .with_columns(prompt_bits=prompt_bits("prompt_id"))
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
