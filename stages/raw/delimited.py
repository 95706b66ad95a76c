"""Tables of text, one row a line: CSV and TSV. The first line names the columns; an empty field is a missing value."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from typing import Any, BinaryIO

from scoreonce.pipeline.text.quarantine import RowError

LONGEST = 64 << 20  # bytes of a line that is read at once, and characters of a field
DELIMITERS = (",", ";", "\t")


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
