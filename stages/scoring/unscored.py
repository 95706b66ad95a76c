"""What is left to score, and what that takes. No tensors here.

Prompts are dealt into buckets by their ids, and only the completions of one bucket are in memory at a time: so memory
does not grow with the number of pairs. Each bucket takes a pass over the ids and lengths of the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq

from scoreonce.stages.common.frames import frame_batches, without_others
from scoreonce.stages.common.paths import SPLITS, RunPaths, Split
from scoreonce.stages.data.mismatched import mismatched_completions
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.shards import PlannedCompletions, ShardPlan, Totals
from scoreonce.stages.store.parts import Part, parts_of

BUCKET = 1 << 21  # completions of a bucket, about, which take a GB with what planning them takes
_PAIR_COLUMNS = ["row", "chosen_id", "rejected_id", "prompt_id", "prompt_len", "chosen_len", "rejected_len"]
_DIGITS = (8, 8)  # of a prompt's id, which decide its bucket: not those that decide its part, see `Part`


@dataclass(frozen=True)
class UnscoredCompletions:
    """Unscored completions, each once, bucket by bucket, in each the longest prompt rows first."""

    wanted: int  # completions, scored or not
    totals: Sequence[Totals]  # of the buckets with something to score
    plan: Callable[[int], PlannedCompletions]  # makes a bucket's plan, by its number

    def __len__(self) -> int:
        return sum(each.completions for each in self.totals)

    @property
    def tokens(self) -> int:
        """Positions of all prompt rows."""
        return sum(each.tokens for each in self.totals)

    @property
    def completion_tokens(self) -> int:
        """Tokens of all completions."""
        return sum(each.completion_tokens for each in self.totals)

    @property
    def longest_row(self) -> int:
        """Positions of the longest prompt row."""
        return max(each.longest_row for each in self.totals)

    @property
    def longest_sequence(self) -> int:
        """Positions of the longest prompt with one completion (the last token is only predicted)."""
        return max(each.longest_sequence for each in self.totals)

    def parts(self, of: int) -> list[Part]:
        """The parts, of so many, that hold one of them."""
        bits = [self.plan(each.number).completions.get_column("prompt_bits").unique() for each in self.totals]
        return parts_of(pl.concat(bits), of)

    def shards(self, rank: int = 0, world: int = 1) -> Iterator[ShardPlan]:
        """The shards of one of `world` processes."""
        first = 0
        for each in self.totals:
            count = len(each.bounds) - 1
            own = [number for number in range(count) if (first + number) % world == rank]
            first += count
            planned = self.plan(each.number) if own else None
            for number in own:
                assert planned is not None
                yield planned.shard(number)
            del planned  # before the next bucket is read

    def rounds(self, world: int = 1) -> int:
        """Shards of the process that has the most."""
        return math.ceil(len(self._sizes) / world)

    def share(self, rank: int, world: int) -> int:
        """Completions in the shards of one process."""
        return sum(self._sizes[rank::world])

    def sample(self, rows: int) -> ShardPlan:
        """Up to `rows` prompt rows of a bucket, spread evenly over the lengths."""
        return self.plan(self.totals[0].number).sample(rows)

    @property
    def _sizes(self) -> list[int]:
        return [size for each in self.totals for size in each.sizes]


def unscored_completions(job: ScoringJob) -> UnscoredCompletions:
    """What the store of a job lacks of the completions of its pairs, or of its part of them, now.

    With `score.mismatched` each training prompt's mismatched completion is among them. What another process adds to the
    store meanwhile changes nothing: a bit for each completion says whether it was stored.
    """
    buckets, met = _buckets(job), _mismatched(job)
    stored: list[_Stored] = []
    totals: list[Totals] = []
    only: PlannedCompletions | None = None

    def planned(number: int) -> PlannedCompletions | None:
        """The plan of a bucket, None where nothing of it is left; the first time, it is looked up what is stored."""
        found = _completions(job, met, number, buckets)
        if number == len(stored):
            holds = job.store.holds(found.get_column("completion_id"), job.tensor_layers)
            stored.append(_Stored(found.height, np.packbits(holds)))
        missing = ~np.unpackbits(stored[number].bits, count=found.height).astype(np.bool_)
        return _planned(job, found.filter(pl.Series(missing))) if missing.any() else None

    for number in range(buckets):
        if (made := planned(number)) is not None:
            totals.append(made.totals(number))
            only = made if buckets == 1 else None
        del made  # before the next bucket is read

    def plan(number: int) -> PlannedCompletions:
        made = only or planned(number)
        assert made is not None
        return made

    return UnscoredCompletions(sum(each.completions for each in stored), totals, plan)


class _Stored(NamedTuple):
    """The completions of a bucket, and a bit for each that the store had when work began."""

    completions: int
    bits: npt.NDArray[np.uint8]


def missing_completions(job: ScoringJob) -> int:
    """How many completions of the pairs the store lacks, of all parts."""
    missing, buckets, met = 0, _buckets(job), _mismatched(job)
    for number in range(buckets):
        ids = _completions(job, met, number, buckets, parts=False).get_column("completion_id")
        missing += int((~job.store.holds(ids, job.tensor_layers)).sum())
    return missing


def pairs_left(job: ScoringJob, work: UnscoredCompletions) -> int:
    """Pairs with at least one unscored completion."""
    left, buckets, met = 0, _buckets(job), _mismatched(job)
    for each in work.totals:
        everywhere = _occurrences(job, met, _in_bucket(each.number, buckets))
        unscored = work.plan(each.number).completions.select("completion_id")
        left += everywhere.join(unscored, on="completion_id", how="semi").n_unique(["split", "pair"])
    return left


def _buckets(job: ScoringJob) -> int:
    pairs = sum(pq.read_metadata(job.paths.pairs(split)).num_rows for split in job.splits)
    sides = 3 if job.score.mismatched else 2
    return max(1, math.ceil(sides * pairs / (job.part.of if job.part else 1) / BUCKET))


def _mismatched(job: ScoringJob) -> pl.DataFrame | None:
    """The mismatched completions of all training pairs, which take a pass over their tokens; None without them.

    What is held out is ranked, not trained on.
    """
    return mismatched_completions(job.paths, "train") if job.score.mismatched and "train" in job.splits else None


def _in_bucket(number: int, of: int) -> pl.Expr:
    """Whether each row is of a prompt in this bucket."""
    return pl.col("prompt_id").str.slice(*_DIGITS).str.to_integer(base=16) % of == number


def _completions(
    job: ScoringJob, met: pl.DataFrame | None, bucket: int, buckets: int, *, parts: bool = True
) -> pl.DataFrame:
    """Every distinct completion of a bucket of the pairs, at its first occurrence."""
    kept = _in_bucket(bucket, buckets) if buckets > 1 else pl.lit(True)
    if parts and job.part is not None:
        kept &= job.part.holds("prompt_id")
    return _occurrences(job, met, kept).unique("completion_id", keep="first", maintain_order=True)


def _planned(job: ScoringJob, completions: pl.DataFrame) -> PlannedCompletions:
    return PlannedCompletions.of(completions, job.row_tokens, job.shard_completions)


def _occurrences(job: ScoringJob, met: pl.DataFrame | None, kept: pl.Expr) -> pl.DataFrame:
    """The completions of every pair whose prompt is to be `kept`, at each occurrence; `met` has mismatched ones."""
    parts = []
    for split in job.splits:
        pairs = _pairs(job.paths, split, kept)
        own = pairs.with_columns(donor="pair")
        parts += [_side(own.with_columns(column=_named(f"{side}_ids")), split, side) for side in ("chosen", "rejected")]
        if met is not None and split == "train":
            others = met[pairs["pair"]].rename({"kl_id": "chosen_id", "kl_len": "chosen_len"})
            matched = pairs.drop("chosen_id", "chosen_len").hstack(others)
            parts.append(_side(matched.with_columns(pl.col("column").cast(_COLUMN)), split, "chosen"))
    return pl.concat(parts)


_SPLIT, _COLUMN = pl.Enum(list(SPLITS)), pl.Enum(["chosen_ids", "rejected_ids"])


def _named(column: str) -> pl.Expr:
    return pl.lit(column, _COLUMN)


def _pairs(paths: RunPaths, split: Split, kept: pl.Expr) -> pl.DataFrame:
    """Ids and lengths of the pairs that are kept, with the number of each."""
    first, parts = 0, []
    for batch in frame_batches(paths.pairs(split), _PAIR_COLUMNS):
        parts.append(without_others(batch.with_row_index("pair", first).filter(kept)))
        first += batch.height
    return pl.concat(parts)


def _side(pairs: pl.DataFrame, split: Split, side: str) -> pl.DataFrame:
    return pairs.filter(pl.col(f"{side}_id").is_not_null()).select(
        pl.col(f"{side}_id").alias("completion_id"),
        pl.lit(split, _SPLIT).alias("split"),
        "pair",
        "donor",
        "column",
        "row",
        "prompt_id",
        "prompt_len",
        pl.col(f"{side}_len").alias("completion_len"),
    )
