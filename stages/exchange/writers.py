"""Files of an export, written batch by batch, and named when they are whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scoreonce.stages.common.files import atomic, parquet_options


@contextmanager
def parquet_file(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends a table of this schema to a Parquet file."""
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema, **parquet_options(schema)) as writer:
        yield writer.write_table


@contextmanager
def json_lines(path: Path) -> Iterator[Callable[[Iterable[dict[str, Any]]], None]]:
    """A function that appends rows to a file, an object on each line."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        yield lambda rows: handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
