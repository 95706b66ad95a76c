"""Files of text: their decompressed bytes, and the rows of CSV and TSV.

The first line of a table names the columns; an empty field is a missing value.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from scoreonce.pipeline.text.quarantine import RowError

LONGEST = 64 << 20  # bytes of a line that is read at once, and characters of a field
DELIMITERS = (",", ";", "\t")
SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


def is_compressed(file: Path) -> bool:
    """Whether the name says that the file is compressed."""
    return file.suffix in SUFFIXES


def uncompressed_name(file: Path) -> Path:
    """The file's name without the suffix of its compression."""
    return Path(file.name.removesuffix(file.suffix)) if is_compressed(file) else Path(file.name)


def open_bytes(file: Path) -> BinaryIO:
    """The file, opened to read what it holds once it is decompressed."""
    match file.suffix:
        case ".gz":
            return cast(BinaryIO, gzip.open(file))
        case ".bz2":
            return cast(BinaryIO, bz2.open(file))
        case ".xz":
            return cast(BinaryIO, lzma.open(file))
        case ".zst":  # pyarrow's streams have no readline
            return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(file), compression="zstd")))
        case _:
            return file.open("rb")


def delimited_rows(handle: BinaryIO, name: str) -> Iterator[dict[str, Any] | RowError]:
    """The rows, every value as text; a `RowError` for one that is not UTF-8 or has another number of fields."""
    csv.field_size_limit(LONGEST)  # a long answer is longer than the default of 128 KiB
    bounded = iter(lambda: handle.readline(LONGEST), b"")
    lines = codecs.iterdecode(bounded, "utf-8-sig", errors="surrogateescape")
    header = next(lines, "")
    delimiter = "\t" if ".tsv" in name else max(DELIMITERS, key=header.count)
    columns = next(csv.reader([header], delimiter=delimiter), [])
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield RowError("invalid_csv", f"line {reader.line_num + 1} of {name}: {error}")
            continue
        if fields is None:
            return
        if fields:
            yield _row(columns, fields, f"line {reader.line_num + 1} of {name}")


def _row(columns: list[str], fields: list[str], where: str) -> dict[str, Any] | RowError:
    if len(fields) != len(columns):
        return RowError("invalid_csv", f"{where}: {len(fields)} fields, the first line has {len(columns)}")
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return RowError("invalid_utf8", f"{where}: bytes that are not UTF-8")
    return {column: field or None for column, field in zip(columns, fields, strict=True)}
