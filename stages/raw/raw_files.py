"""Read one local data file in batches of rows: JSON lines or one JSON array, CSV, TSV, Parquet, Arrow.

A row that cannot be read is replaced by a `RowError`; a file that cannot be read raises `InputError`.
"""

from __future__ import annotations

import codecs
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from scoreonce.pipeline.text.quarantine import RowError, kind_of
from scoreonce.schemas.errors import InputError
from scoreonce.stages.raw.compression import is_compressed, open_bytes, uncompressed_name
from scoreonce.stages.raw.delimited import delimited_rows

LONGEST_LINE = 64 << 20  # bytes of one row of JSON: a compressed file of megabytes may hold a line of gigabytes
LARGEST_ARRAY = 4 << 30  # bytes of one JSON array, which is parsed as a whole
RawRow = dict[str, Any] | RowError
Names = Sequence[str] | None
KINDS = {
    ".jsonl": "JSON",
    ".ndjson": "JSON",
    ".json": "JSON",
    ".csv": "CSV",
    ".tsv": "CSV",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Arrow",
}
# Values that Python has no object for: dates out of range, a time zone that is not known here (a `KeyError`).
UNREADABLE = (ValueError, OverflowError, KeyError)


def kind_of_file(file: PurePath) -> str | None:
    """The type of a file by its name: "JSON", "CSV", "Parquet", "Arrow", or None."""
    kind = KINDS.get(uncompressed_name(file).suffix)
    return None if is_compressed(file) and kind in ("Parquet", "Arrow") else kind


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn errors of reading `file` into an `InputError`."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, RecursionError) as error:
        raise InputError(
            "A data file cannot be read.",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            where=str(file),
            fix="It is damaged, or its type is not the one that its name says. Download or write it again.",
        ) from None


def rows_of(file: Path) -> int:
    """Number of rows of a file, about that for CSV; 0 if it would take decompressing or parsing it."""
    kind = kind_of_file(file)
    with readable(file):
        if kind == "Parquet":
            return int(pq.read_metadata(file).num_rows)
        if kind in ("JSON", "CSV") and not is_compressed(file):
            with file.open("rb") as handle:
                return sum(chunk.count(b"\n") for chunk in iter(lambda: handle.read(1 << 20), b""))
        return 0


def batches_of(file: Path, columns: Names, batch_rows: int) -> Iterator[list[RawRow]]:
    """The rows of a file with at least these columns, in batches. Raises `InputError` if the file is damaged."""
    readers: dict[str, Callable[[], Iterator[list[RawRow]]]] = {
        "JSON": lambda: _text_batches(file, batch_rows, partial(_json_rows, may_be_array=".json" in file.suffixes)),
        "CSV": lambda: _text_batches(file, batch_rows, delimited_rows),
        "Parquet": lambda: _parquet_batches(file, columns, batch_rows),
        "Arrow": lambda: _arrow_batches(file, columns, batch_rows),
    }
    with readable(file):
        yield from readers[kind_of_file(file) or ""]()


def _text_batches(
    file: Path, batch_rows: int, reader: Callable[[BinaryIO, str], Iterator[RawRow]]
) -> Iterator[list[RawRow]]:
    with open_bytes(file) as handle:
        rows = reader(handle, file.name)
        while batch := list(islice(rows, batch_rows)):
            yield batch


def _json_rows(handle: BinaryIO, name: str, *, may_be_array: bool) -> Iterator[RawRow]:
    first = handle.readline(LONGEST_LINE).removeprefix(codecs.BOM_UTF8)
    if first.lstrip().startswith(b"[") and (may_be_array or _begins_an_array(first)):
        # One array over the whole file cannot be parsed in pieces.
        for index, item in enumerate(json.loads(first + _rest(handle))):
            yield _object(item, f"item {index} of {name}")
        return
    for number, line in enumerate(_lines(handle, first), 1):
        if line.strip():
            yield _json_row(line, f"line {number} of {name}")


def _begins_an_array(line: bytes) -> bool:
    """Whether the first line of what should be JSON lines begins an array of objects instead."""
    inside = line.strip()[1:].lstrip()
    return not inside or inside.startswith(b"{")


def _rest(handle: BinaryIO) -> bytes:
    rest = handle.read(LARGEST_ARRAY)
    if len(rest) == LARGEST_ARRAY:
        raise ValueError(f"one JSON array of over {LARGEST_ARRAY:,} bytes; write one object a line (jq -c '.[]')")
    return rest


def _lines(handle: BinaryIO, first: bytes) -> Iterator[bytes]:
    """The lines of a file in bounded memory: of one over `LONGEST_LINE`, its first bytes, without the line's end."""
    line = first
    while line:
        yield line
        while line and not line.endswith(b"\n"):  # the rest of a long line
            line = handle.readline(LONGEST_LINE)
        line = handle.readline(LONGEST_LINE)


def _json_row(line: bytes, where: str) -> RawRow:
    if len(line) >= LONGEST_LINE and not line.endswith(b"\n"):
        return RowError("line_too_long", f"{where}: over {LONGEST_LINE:,} bytes")
    try:
        return _object(json.loads(line.decode("utf-8")), where)
    except UnicodeDecodeError as error:
        return RowError("invalid_utf8", f"{where}: byte {line[error.start]:#04x} at {error.start}")
    except (ValueError, RecursionError) as error:  # a number of over 4,300 digits is a `ValueError` alone
        return RowError("invalid_json", f"{where}: {error}")


def _object(value: Any, where: str) -> RawRow:
    if isinstance(value, dict):
        return value
    return RowError("invalid_json", f"{where} should be an object and is {kind_of(value)}")


def _parquet_batches(file: Path, columns: Names, batch_rows: int) -> Iterator[list[RawRow]]:
    with pq.ParquetFile(file, memory_map=True, page_checksum_verification=True) as parquet:
        names = None if columns is None else [name for name in parquet.schema_arrow.names if name in columns]
        for batch in parquet.iter_batches(batch_rows, columns=names):
            yield python_rows(batch)


def _arrow_batches(file: Path, columns: Names, batch_rows: int) -> Iterator[list[RawRow]]:
    with pa.memory_map(str(file)) as source:
        try:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        except pa.ArrowInvalid:  # datasets writes the stream format
            batches = iter(pa.ipc.open_stream(source))
        for batch in batches:
            wanted = [place for place, name in enumerate(batch.schema.names) if columns is None or name in columns]
            for start in range(0, batch.num_rows, batch_rows):
                yield python_rows(batch.select(wanted).slice(start, batch_rows))


def python_rows(batch: pa.RecordBatch | pa.Table) -> list[RawRow]:
    """The rows of an Arrow batch; a `RowError` for a row with text that is not UTF-8.

    Arrow gives each object of a column every key that one of them has, with null in the others: those keys are left
    out again, so that the arguments of a tool are the same as from JSON. A value that Python cannot hold, such as a
    date in the year 30000, is an `Unreadable`. Raises `ValueError` where two columns have one name.
    """
    names = batch.schema.names
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"two columns have the name {twice[0]!r}")
    try:
        rows: list[RawRow] = batch.to_pylist()
    except UNREADABLE:
        rows = [_python_row(batch.slice(index, 1)) for index in range(batch.num_rows)]
    with_objects = [column.name for column in batch.schema if _has_objects(column.type)]
    for row in rows:
        if isinstance(row, dict):
            row.update({name: _without_nulls(row[name]) for name in with_objects})
    return rows


def _has_objects(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) or (pa.types.is_nested(kind) and any(map(_has_objects, _inner(kind))))


def _inner(kind: pa.DataType) -> list[pa.DataType]:
    return [kind.field(index).type for index in range(kind.num_fields)]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Unreadable:
    """Stands for a value that Python cannot hold. No format takes it, so that only a row that needs it is refused."""

    reason: str


def _python_row(batch: pa.RecordBatch | pa.Table) -> RawRow:
    row: dict[str, Any] = {}
    for name in batch.schema.names:
        try:
            row[name] = batch.column(name).to_pylist()[0]
        except UnicodeDecodeError as error:
            return RowError("invalid_utf8", str(error))
        except UNREADABLE as error:
            row[name] = Unreadable(str(error))
    return row
