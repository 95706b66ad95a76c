"""Arrow tables and Parquet files as polars frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from scoreonce.stages.common.files import parquet_batches, read_parquet

ROWS_AT_ONCE = 1 << 17


def frame_of(table: pa.Table) -> pl.DataFrame:
    """The same table as a polars frame."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def scan_frame(path: Path | list[Path]) -> pl.LazyFrame:
    """One or several Parquet files, read only as far as they are used. `*` and `[` in a name are no patterns."""
    return pl.scan_parquet(path, glob=False)


def read_frame(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """Some or all columns of a Parquet file, with page checksums verified, as polars' own reader does not.

    Raises `OSError` or `pa.ArrowException` where the file is damaged.
    """
    return frame_of(read_parquet(path, columns))


def without_others(frame: pl.DataFrame) -> pl.DataFrame:
    """The same rows, for one that is kept while the frame that it was filtered from goes.

    What polars filters still holds the text of all rows that were there before.
    """
    return frame_of(frame.to_arrow(compat_level=pl.CompatLevel.oldest()))


def frame_batches(path: Path, columns: list[str], rows: int = ROWS_AT_ONCE) -> Iterator[pl.DataFrame]:
    """The same in frames of at most so many rows, in order, at least one of them: of a file that may be large."""
    return map(frame_of, parquet_batches(path, columns, rows))
