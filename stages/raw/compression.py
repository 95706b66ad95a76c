"""Compressed files, read as the bytes that were compressed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from pathlib import Path, PurePath
from typing import BinaryIO, cast

import pyarrow as pa

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


def is_compressed(file: PurePath) -> bool:
    """Whether the name says that the file is compressed."""
    return file.suffix in SUFFIXES


def uncompressed_name(file: PurePath) -> Path:
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
