"""JSON lines that are appended one at a time, and a file beside them with the checksum of each line.

    metrics.jsonl   {"step": 1, "loss": 0.69}
    metrics.crc32   5f1c0a3e

The CRC-32 of the line's bytes, line break included. It is written after the line; a killed process leaves a line
without one, or half a line, which is left out.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scoreonce.stages.common.files import atomic

Numbers = Mapping[str, float | int | None]


def append_line(path: Path, numbers: Numbers) -> None:
    """Append one object."""
    line = _line(numbers)
    for file, text in ((path, line), (checksums_of(path), _checksum(line))):
        with file.open("ab") as handle:
            handle.write(text)


def write_lines(path: Path, rows: Iterable[Numbers]) -> None:
    """Replace the file by these objects."""
    lines = [_line(numbers) for numbers in rows]
    for file, texts in ((path, lines), (checksums_of(path), map(_checksum, lines))):
        with atomic(file) as temporary:
            temporary.write_bytes(b"".join(texts))


def read_lines(path: Path, *, checked: bool = True) -> Iterator[dict[str, Any]]:
    """The objects that were written; with `checked` false, without a look at the checksums.

    Raises `ValueError`, with the number of the line, at one that is damaged. Lines of version 0.1, which wrote no
    checksums, are read as they are.
    """
    checksums = checksums_of(path)
    stated = _whole_lines(checksums) if checked and checksums.exists() else None
    for number, line in enumerate(_whole_lines(path), 1):
        if stated is not None:
            checksum = next(stated, None)
            if checksum is None:
                return
            if checksum != _checksum(line):
                raise ValueError(f"line {number} does not have the checksum that was written")
        try:
            yield json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None


def checksums_of(path: Path) -> Path:
    """The file with the checksums of the lines in `path`."""
    return path.with_suffix(".crc32")


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as lines:
        yield from (line for line in lines if line.endswith(b"\n"))


def _line(numbers: Numbers) -> bytes:
    return json.dumps(numbers).encode() + b"\n"


def _checksum(line: bytes) -> bytes:
    return f"{zlib.crc32(line):08x}\n".encode()
