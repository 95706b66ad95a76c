"""Where each completion of a layer is: sorted 128-bit ids and, for each, the number of its row in the layer.

    <layer>.json          files of the layer with their stamps and row counts; name, size and SHA-256 of the table
    <layer>-<name>.bin    ids (rows, 16 bytes), sorted, then row numbers (rows, uint32), counted through the files

The table is memory-mapped: 20 bytes a completion, of which only the pages that are searched are in memory. It is a
cache. One that is absent, stale or damaged is rebuilt from the files, and readers that may not write keep theirs in
memory. An id in two files is in the index twice, so that either file can be removed.
"""

from __future__ import annotations

import binascii
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from scoreonce.stages.common.digests import file_digests
from scoreonce.stages.common.files import read_json, sha256, write_json
from scoreonce.stages.common.removal import remove
from scoreonce.stages.store.sidecar import Stamp, root_of

FORMAT = 1
ID_BYTES, ROW_BYTES = 16, 4
CHUNK = 1 << 22  # entries that are merged at a time

# Compared as bytes, which for ids of equal width is the order of their hex digits.
Ids = npt.NDArray[np.bytes_]
RowNumbers = npt.NDArray[np.uint32]
Allocate = Callable[[int], tuple[Ids, RowNumbers]]


def packed(ids: Iterable[str]) -> Ids:
    """`(ids,)` completion ids of 32 hex digits as 16 bytes each."""
    return np.frombuffer(binascii.unhexlify("".join(ids)), f"S{ID_BYTES}")


def packed_column(ids: pl.Series) -> Ids:
    """`(ids,)` the same of a column without nulls, and without a Python object for each of them."""
    array = ids.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, digits = array.buffers()
    kind = np.int64 if pa.types.is_large_string(array.type) else np.int32
    bounds = np.frombuffer(offsets, kind)[array.offset : array.offset + len(array) + 1] if len(array) else [0, 0]
    hex_digits = memoryview(digits)[bounds[0] : bounds[-1]] if digits else b""
    if len(hex_digits) != 2 * ID_BYTES * len(array):
        raise ValueError("a completion id does not have 32 hex digits")
    return np.frombuffer(binascii.unhexlify(hex_digits), f"S{ID_BYTES}")


def unpacked(ids: Ids) -> list[str]:
    """The hex digits of packed ids."""
    digits = ids.tobytes().hex()
    return [digits[start : start + 2 * ID_BYTES] for start in range(0, len(digits), 2 * ID_BYTES)]


class StaleIndexError(Exception):
    """The index leads to another completion than the one that was looked up."""


class IndexedFile(NamedTuple):
    """A file whose digest was checked and whose ids are in the index."""

    name: str
    rows: int
    stamp: Stamp


class Locations(NamedTuple):
    """Where ids were found; `file` and `row` mean nothing where `found` is false."""

    found: npt.NDArray[np.bool_]
    file: npt.NDArray[np.int64]  # number of the file in `Index.files`
    row: npt.NDArray[np.int64]  # in that file


@dataclass(frozen=True)
class Index:
    """The ids of some files, and where they are."""

    files: tuple[IndexedFile, ...]
    ids: Ids  # sorted
    rows: RowNumbers

    @classmethod
    def empty(cls) -> Index:
        """The index of no files."""
        return cls((), *_in_memory(0))

    @classmethod
    def of(cls, ids: Ids) -> Index:
        """The index of one list of ids, in memory."""
        return cls.empty().merged([IndexedFile("", len(ids), Stamp(0, 0, 0, 0))], ids)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """`(files + 1,)` number of the first row of each file, and of all rows."""
        return np.fromiter(accumulate((file.rows for file in self.files), initial=0), np.int64, len(self.files) + 1)

    def holds(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """`(ids,)` whether each is in the index."""
        return self._search(ids)[1]

    def locate(self, ids: Ids) -> Locations:
        """Where each of `ids` is. Raises `StaleIndexError` where a row number is beyond the last row."""
        at, found = self._search(ids)
        if len(self.ids) == 0:
            return Locations(found, at, at)
        numbers, starts = self.rows[at].astype(np.int64), self.starts
        if (numbers >= starts[-1]).any():
            raise StaleIndexError
        file = np.searchsorted(starts, numbers, side="right") - 1
        return Locations(found, file, numbers - starts[file])

    def _search(self, ids: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The first entry that is not less than each id, and whether it is that id."""
        if len(self.ids) == 0:
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
        order = np.argsort(ids, kind="stable")  # sorted queries walk through the table instead of jumping in it
        at = np.empty(len(ids), np.int64)
        at[order] = np.searchsorted(self.ids, ids[order])
        at = np.minimum(at, len(self.ids) - 1)
        return at, self.ids[at] == ids

    def without(self, names: set[str], allocate: Allocate | None = None) -> Index:
        """The index of the other files."""
        stays = np.array([file.name not in names for file in self.files])
        if stays.all():
            return self
        left = tuple(file for file, kept in zip(self.files, stays, strict=True) if kept)
        ids, rows = (allocate or _in_memory)(sum(file.rows for file in left))
        before, after, done = self.starts, Index(left, ids, rows).starts, 0
        shift = np.zeros(len(self.files), np.int64)
        shift[stays] = after[:-1] - before[:-1][stays]
        for start in range(0, len(self.ids), CHUNK):
            numbers = self.rows[start : start + CHUNK].astype(np.int64)
            file = np.searchsorted(before, numbers, side="right") - 1
            kept = stays[file]
            end = done + int(kept.sum())
            ids[done:end] = self.ids[start : start + CHUNK][kept]
            rows[done:end] = (numbers + shift[file])[kept]
            done = end
        return Index(left, ids, rows)

    def merged(self, files: Sequence[IndexedFile], ids: Ids, allocate: Allocate | None = None) -> Index:
        """The index with more files, `ids` being theirs, file after file. Raises `OverflowError` at 2^32 rows."""
        total = len(self.ids) + len(ids)
        if total >= 1 << 32:
            raise OverflowError("a layer of the reference store holds at most 2^32 rows")
        order = np.argsort(ids, kind="stable")
        new_ids, new_rows = ids[order], (order + len(self.ids)).astype(np.uint32)
        all_ids, all_rows = (allocate or _in_memory)(total)
        # Chunk by chunk of the old entries, with the new ones that come before the next chunk.
        done = 0
        for start in range(0, max(1, len(self.ids)), CHUNK):
            stop = start + CHUNK
            end = len(new_ids)
            if stop < len(self.ids):
                end = int(np.searchsorted(new_ids, self.ids[stop : stop + 1])[0])
            old, new = self.ids[start:stop], new_ids[done:end]
            at = np.searchsorted(old, new, side="right") + np.arange(len(new))
            is_old = np.ones(len(old) + len(new), np.bool_)
            is_old[at] = False
            here = slice(start + done, start + done + len(is_old))
            all_ids[here][at], all_rows[here][at] = new, new_rows[done:end]
            all_ids[here][is_old], all_rows[here][is_old] = old, self.rows[start:stop]
            done = end
        return Index((*self.files, *files), all_ids, all_rows)


def _in_memory(entries: int) -> tuple[Ids, RowNumbers]:
    return np.empty(entries, f"S{ID_BYTES}"), np.empty(entries, "<u4")


class IndexFile:
    """The index of one layer on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Index:
        """The index as it was saved; an empty one where there is none, or a damaged one."""
        try:
            stated = read_json(self.path)
            files = tuple(IndexedFile(name, rows, Stamp(*stamp)) for name, rows, stamp in stated["files"])
            table, entries = self.path.parent / stated["table"], sum(file.rows for file in files)
            whole = stated["format"] == FORMAT and table.stat().st_size == entries * (ID_BYTES + ROW_BYTES)
            # Hashed once: 2 GB would take seconds at every start. What is read by it is compared with its own ids.
            if not whole or file_digests([table]) != [stated["sha256"]]:
                return Index.empty()
            return Index(files, *_mapped(table, entries, "r"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Index.empty()

    def allocate(self, entries: int) -> tuple[Ids, RowNumbers]:
        """Room for a new table: a file in the folder of the index, or memory where that cannot be written."""
        if entries == 0:
            return _in_memory(0)
        try:
            self.path.parent.mkdir(exist_ok=True)
            table = self.path.with_name(f"{self.path.stem}-{secrets.token_hex(5)}.bin")
            _reserve(table, entries * (ID_BYTES + ROW_BYTES))
            return _mapped(table, entries, "r+")
        except OSError:
            return _in_memory(entries)

    def save(self, index: Index) -> None:
        """Commit an index whose table `allocate` made, and remove the tables of earlier ones.

        Nothing happens where the folder cannot be written. Two processes may save at the same time: the last one stays.
        """
        if not isinstance(index.ids, np.memmap):
            return
        table = Path(str(index.ids.filename))
        with suppress(OSError):
            index.ids.flush()
            stated = {"format": FORMAT, "table": table.name, "sha256": sha256(table)}
            write_json(self.path, stated | {"files": [list(file) for file in index.files]})
            for other in self._tables():
                if other != table:
                    remove(other, inside=root_of(other))

    def leftovers(self) -> list[Path]:
        """Files that a killed process left. A process that was using them survives: it rebuilds the index."""
        try:
            current = self.path.parent / read_json(self.path)["table"]
        except (OSError, ValueError, KeyError, TypeError):
            current = None
        unfinished = self.path.parent.glob(f".{self.path.name}.*.tmp")
        return sorted([*unfinished, *(table for table in self._tables() if table != current)])

    def _tables(self) -> list[Path]:
        return list(self.path.parent.glob(f"{self.path.stem}-*.bin"))


def _reserve(path: Path, size: int) -> None:
    """A new file of that many zeros: a disk that is full says so here, and not as a bus error in a mapped page."""
    zeros = bytes(CHUNK)
    try:
        with path.open("xb") as handle:
            for start in range(0, size, len(zeros)):
                handle.write(zeros[: size - start])
    except OSError:
        remove(path, inside=root_of(path))
        raise


def _mapped(table: Path, entries: int, mode: Literal["r", "r+"]) -> tuple[Ids, RowNumbers]:
    if entries == 0:
        return _in_memory(0)
    ids: Ids = np.memmap(table, f"S{ID_BYTES}", mode, shape=(entries,))
    return ids, np.memmap(table, "<u4", mode, offset=ID_BYTES * entries, shape=(entries,))
