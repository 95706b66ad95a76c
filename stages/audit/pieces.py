"""The pairs in pieces of some thousand rows, each with its texts and its token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from scoreonce.pipeline.audit.measures import text, tokens
from scoreonce.stages.common.frames import frame_of
from scoreonce.stages.common.paths import SPLITS, RunPaths, Split

ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Span:
    """Rows of one record batch of a token file."""

    batch: int
    first: int  # within the batch
    rows: int


@dataclass(frozen=True)
class Piece:
    """Consecutive row groups of one split; `first` is the number of its first pair over both splits."""

    path: Path
    split: Split
    groups: list[int]
    first: int
    rows: int
    token_file: Path
    spans: list[Span]  # of the same pairs

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """Its rows."""
        return frame_of(pq.ParquetFile(self.path).read_row_groups(self.groups, columns=list(columns)))

    def token_measures(self, special: tokens.SpecialIds | None) -> pl.DataFrame:
        """The measures of its token ids."""
        with pa.memory_map(str(self.token_file)) as mapped:
            file = pa.ipc.open_file(mapped)
            batches = [file.get_batch(span.batch).slice(span.first, span.rows) for span in self.spans]
            return pl.concat([_measured(batch, special) for batch in batches])


def _measured(batch: pa.RecordBatch, special: tokens.SpecialIds | None) -> pl.DataFrame:
    prompt, chosen, rejected = (_lists(batch.column(f"{side}_ids")) for side in text.SIDES)
    return tokens.measure(prompt, chosen, rejected, special)


def _lists(column: pa.ListArray) -> tokens.TokenLists:
    offsets = column.offsets.to_numpy().astype(np.int64)
    return tokens.TokenLists(column.flatten().to_numpy(), offsets[1:] - offsets[0])


def pieces_of(paths: RunPaths) -> list[Piece]:
    """The pairs of both splits in pieces, in order; pairs and token ids need not be cut at the same rows."""
    return [piece for split, first in _splits(paths) for piece in _of_split(paths, split, first)]


def _splits(paths: RunPaths) -> Iterator[tuple[Split, int]]:
    """Each split with the number of its first pair."""
    first = 0
    for split in SPLITS:
        yield split, first
        first += pq.read_metadata(paths.pairs(split)).num_rows


def _of_split(paths: RunPaths, split: Split, first: int) -> Iterator[Piece]:
    path, metadata = paths.tokens(split), pq.read_metadata(paths.pairs(split))
    sizes = {group: metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)}
    filled = [group for group, rows in sizes.items() if rows]
    each = max(1, ROWS_AT_ONCE // max(sizes.values(), default=1)) if filled else 1
    starts, start = _batch_starts(path), 0
    for place in range(0, len(filled), each):
        groups = filled[place : place + each]
        rows = sum(sizes[group] for group in groups)
        yield Piece(
            paths.pairs(split), split, groups, first + start, rows, path, list(_spans(starts, start, start + rows))
        )
        start += rows


def _batch_starts(path: Path) -> list[int]:
    """The first row of each record batch, and the number of rows."""
    with pa.memory_map(str(path)) as mapped:
        file = pa.ipc.open_file(mapped)
        rows = [file.get_batch(number).num_rows for number in range(file.num_record_batches)]
    return [0, *np.cumsum(rows, dtype=np.int64).tolist()]


def _spans(starts: Sequence[int], start: int, end: int) -> Iterator[Span]:
    """The parts of record batches that hold the rows from `start` to `end`."""
    batch = int(np.searchsorted(starts, start, side="right")) - 1
    while start < end and batch + 1 < len(starts):
        until = min(end, starts[batch + 1])
        if until > start:
            yield Span(batch, start - starts[batch], until - start)
        start, batch = until, batch + 1
