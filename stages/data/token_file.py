"""Token ids of prepared pairs: random access by memory map, without reading the whole file."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from scoreonce.schemas.errors import InputError

TokenColumn = Literal["prompt_ids", "chosen_ids", "rejected_ids"]


class TokenFile:
    """The Arrow file of token ids that `prepare` writes. Rows are views into the memory map, without a copy.

    Raises `InputError` if the file is missing or is not an Arrow file.
    """

    def __init__(self, path: Path) -> None:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
        except FileNotFoundError:
            raise InputError(
                "The token ids are missing.",
                found=f"no file {path}",
                where="train / score",
                fix="Run `scoreonce prepare` again.",
            ) from None
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                "The token ids cannot be read.",
                found=str(error),
                where=str(path),
                fix="Delete the file and run `scoreonce prepare` again.",
            ) from None
        self._batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self._starts = [0]
        for batch in self._batches:
            self._starts.append(self._starts[-1] + batch.num_rows)
        self._columns: dict[str, list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]]] = {
            name: [_views(batch.column(name)) for batch in self._batches] for name in get_args(TokenColumn)
        }

    def __len__(self) -> int:
        return self._starts[-1]

    def row(self, index: int, column: TokenColumn) -> npt.NDArray[np.int32]:
        """Token ids of one row, `(tokens,)` int32, read-only."""
        batch = bisect_right(self._starts, index) - 1
        offsets, values = self._columns[column][batch]
        within = index - self._starts[batch]
        return values[offsets[within] : offsets[within + 1]]

    def pair_id(self, index: int) -> str:
        """`pair_id` of one row."""
        batch = bisect_right(self._starts, index) - 1
        name: str = self._batches[batch].column("pair_id")[index - self._starts[batch]].as_py()
        return name

    def pair_ids(self, places: npt.NDArray[np.int64] | None = None) -> Iterator[str]:
        """`pair_id` of every row, or of those at `places`, which ascend."""
        for number, batch in enumerate(self._batches):
            names = batch.column("pair_id")
            if places is not None:
                first, last = np.searchsorted(places, self._starts[number : number + 2])
                names = names.take(pa.array(places[first:last] - self._starts[number]))
            yield from names.to_pylist()


def largest_token(path: Path, columns: Sequence[TokenColumn] = get_args(TokenColumn)) -> int:
    """The largest token id in `columns` of a token file, -1 if they are empty.

    The file is read and not mapped: pages that are mapped count as memory of the process until others need them.
    """
    largest = -1
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as reader:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            found = [pc.max(batch.column(name).values).as_py() for name in columns]
            largest = max(largest, *(-1 if value is None else value for value in found))
    return largest


def _views(column: pa.ListArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    # DLPack, because `to_numpy` would import pandas: 50 MiB and a third of a second.
    offsets, values = (np.asarray(np.from_dlpack(part), np.int32) for part in (column.offsets, column.values))
    return offsets, values
