"""The files that `prepare` writes: pairs (Parquet) beside their token ids (Arrow), and the quarantine.

They are written in pieces of a fixed number of rows, whatever batches the rows come in, under temporary names; all of
them take the place of the old files at the end, or none does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from scoreonce.pipeline.text.rows_to_pairs import PreparedPair, QuarantinedRow
from scoreonce.schemas.tables import ARROW_TYPES, Pair, PairTokens, Quarantine, arrow_schema
from scoreonce.stages.common.files import atomic, parquet_options
from scoreonce.stages.common.paths import SPLITS, RunPaths, Split

ROWS_PER_PIECE = 4096


@dataclass
class Pieces:
    """Rows on their way into files, in pieces of `ROWS_PER_PIECE`: of one table, or of several that go together."""

    write: Callable[[Sequence[pa.Table]], None]
    waiting: list[Sequence[pa.Table]] = field(default_factory=list)
    rows: int = 0

    def add(self, *tables: pa.Table) -> None:
        """Take as many rows of each table; write every piece that is full."""
        self.waiting.append(tables)
        self.rows += tables[0].num_rows
        if self.rows >= ROWS_PER_PIECE:
            self._write_out(self.rows - self.rows % ROWS_PER_PIECE)

    def finish(self) -> None:
        """Write what is left."""
        if self.rows:
            self._write_out(self.rows)

    def _write_out(self, rows: int) -> None:
        whole = [pa.concat_tables(parts) for parts in zip(*self.waiting, strict=True)]
        for start in range(0, rows, ROWS_PER_PIECE):
            length = min(ROWS_PER_PIECE, rows - start)
            self.write([table.slice(start, length).combine_chunks() for table in whole])
        self.waiting, self.rows = [[table.slice(rows) for table in whole]], self.rows - rows


@dataclass(frozen=True)
class PairFiles:
    """The open files of one `prepare`."""

    pairs: dict[Split, Pieces]  # of `pair_table` and `token_table`
    quarantine: Pieces  # of `quarantine_table`


@contextmanager
def uncommitted(paths: RunPaths) -> Iterator[dict[Path, Path]]:
    """Temporary paths, by final ones, that take their places together when the block ends well."""
    final = [paths.quarantine, *(path(split) for split in SPLITS for path in (paths.pairs, paths.tokens))]
    with ExitStack() as commits:
        yield {path: commits.enter_context(atomic(path)) for path in final}


@contextmanager
def open_pair_files(paths: RunPaths, growing: dict[Path, Path]) -> Iterator[PairFiles]:
    """Files to write pairs and quarantine to, under their temporary paths; complete when the block ends."""
    with ExitStack() as writers:
        files = PairFiles(
            {
                split: _pair_pieces(writers, growing[paths.pairs(split)], growing[paths.tokens(split)])
                for split in SPLITS
            },
            _quarantine_pieces(writers, growing[paths.quarantine]),
        )
        yield files
        for pieces in files.pairs.values():
            pieces.finish()
        files.quarantine.finish()


def _pair_pieces(writers: ExitStack, pairs_path: Path, tokens_path: Path) -> Pieces:
    pairs = _parquet_writer(writers, pairs_path, arrow_schema(Pair))
    tokens = writers.enter_context(pa.ipc.new_file(pa.OSFile(str(tokens_path), "wb"), arrow_schema(PairTokens)))

    def write(tables: Sequence[pa.Table]) -> None:
        pairs.write_table(tables[0])
        tokens.write_table(tables[1])

    return Pieces(write)


def _quarantine_pieces(writers: ExitStack, path: Path) -> Pieces:
    writer = _parquet_writer(writers, path, arrow_schema(Quarantine))
    return Pieces(lambda tables: writer.write_table(tables[0]))


def _parquet_writer(writers: ExitStack, path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return writers.enter_context(pq.ParquetWriter(path, schema, **parquet_options(schema)))


def pair_columns(rows: Sequence[PreparedPair]) -> dict[str, list[Any]]:
    """The columns of `Pair`."""
    return {
        "pair_id": [row.pair_id for row in rows],
        "chosen_id": [row.chosen_id for row in rows],
        "rejected_id": [row.rejected_id for row in rows],
        "prompt_id": [row.prompt_id for row in rows],
        "row": [row.row for row in rows],
        "source": [row.text.source for row in rows],
        "prompt": [row.text.prompt for row in rows],
        "chosen": [row.text.chosen or None for row in rows],  # only a side that is not there is empty
        "rejected": [row.text.rejected for row in rows],
        "chosen_score": [row.text.chosen_score for row in rows],
        "rejected_score": [row.text.rejected_score for row in rows],
        "chosen_preference": [row.text.chosen_preference for row in rows],
        "rejected_preference": [row.text.rejected_preference for row in rows],
        "prompt_len": [len(row.tokens.prompt_ids) for row in rows],
        "chosen_len": [len(row.tokens.chosen_ids) for row in rows],
        "rejected_len": [len(row.tokens.rejected_ids) for row in rows],
        "prompt_truncated": [row.tokens.prompt_truncated for row in rows],
        "chosen_truncated": [row.tokens.chosen_truncated for row in rows],
        "rejected_truncated": [row.tokens.rejected_truncated for row in rows],
        "boundary_merged": [row.tokens.boundary_merged for row in rows],
    }


def pair_table(rows: Sequence[PreparedPair]) -> pa.Table:
    """Rows of `Pair`."""
    return pa.Table.from_pydict(pair_columns(rows), schema=arrow_schema(Pair))


def token_table(rows: Sequence[PreparedPair]) -> pa.Table:
    """Rows of `PairTokens`."""
    columns = [
        pa.array([row.pair_id for row in rows], pa.string()),
        _list_column([row.tokens.prompt_ids for row in rows]),
        _list_column([row.tokens.chosen_ids for row in rows]),
        _list_column([row.tokens.rejected_ids for row in rows]),
    ]
    return pa.Table.from_arrays(columns, schema=arrow_schema(PairTokens))


def quarantine_table(rows: Sequence[QuarantinedRow]) -> pa.Table:
    """Rows of `Quarantine`."""
    return pa.Table.from_pylist([vars(row) for row in rows], schema=arrow_schema(Quarantine))


def _list_column(lists: list[npt.NDArray[np.int32]]) -> pa.ListArray:
    # Python lists of integers would take ten times as long.
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    values = np.concatenate(lists) if lists else np.empty(0, np.int32)
    return pa.ListArray.from_arrays(offsets, values, type=ARROW_TYPES["list[int32]"])
