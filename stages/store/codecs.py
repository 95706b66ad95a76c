"""The two file formats of a store's layers: Parquet for scores, safetensors for tensors.

This module needs no torch until tensors themselves are read or written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from scoreonce.stages.common.files import parquet_options, read_parquet
from scoreonce.stages.store.index import packed

if TYPE_CHECKING:
    from torch import Tensor

# Names of layers; of top-k log-probs the part before k. Those of version 0.1, without the mass of the tail, are listed,
# verified and collected, but no longer read.
SCORES, HIDDEN, HIDDEN_INT8, POOLED, TOP_K = "shards", "hidden", "hidden-int8", "pooled", "topk-tail-"
_LAYER = re.compile(rf"{SCORES}|{HIDDEN}|{HIDDEN_INT8}|{POOLED}|topk-(tail-)?\d+")
ROWS_PER_GROUP = 8192
Rows = TypeVar("Rows")


def is_layer(name: str) -> bool:
    """Whether a folder of a store with this name is a layer."""
    return _LAYER.fullmatch(name) is not None


class Codec(Protocol[Rows]):
    """How rows of completions become a file. `Rows` is a table or a set of tensors."""

    suffix: str
    unreadable: tuple[type[Exception], ...]  # what reading a damaged file raises

    def write(self, rows: Rows, path: Path) -> None:
        """Write the rows to a new file."""

    def read(self, path: Path) -> Rows:
        """All rows of a file."""

    def ids(self, path: Path) -> npt.NDArray[np.bytes_]:
        """`(rows,)` completion ids of a file as 16 bytes each, without reading the rest of it."""

    def count(self, path: Path) -> int:
        """Rows of a file, from its header."""

    def size(self, rows: Rows) -> tuple[int, int]:
        """How many rows and tokens these are."""

    def ids_of(self, rows: Rows) -> npt.NDArray[np.bytes_]:
        """`(rows,)` completion ids, 16 bytes each."""

    def take(self, rows: Rows, kept: npt.NDArray[np.bool_]) -> Rows:
        """The rows where `kept` is true."""

    def join(self, parts: Sequence[Rows]) -> Rows:
        """The rows of all parts, one after the other."""


class ScoreCodec:
    """Rows of `CompletionScore` as Parquet with page checksums."""

    suffix = ".parquet"
    unreadable: tuple[type[Exception], ...] = (OSError, pa.ArrowException)

    def write(self, rows: pa.Table, path: Path) -> None:
        """Write the rows to a new file."""
        pq.write_table(rows, path, row_group_size=ROWS_PER_GROUP, **parquet_options(rows.schema))

    def read(self, path: Path, columns: list[str] | None = None) -> pa.Table:
        """All rows of a file, or some of their columns."""
        return read_parquet(path, columns)

    def ids(self, path: Path) -> npt.NDArray[np.bytes_]:
        """`(rows,)` completion ids of a file."""
        return self.ids_of(read_parquet(path, ["completion_id"]))

    def count(self, path: Path) -> int:
        """Rows of a file, from its footer."""
        rows: int = pq.read_metadata(path).num_rows
        return rows

    def size(self, rows: pa.Table) -> tuple[int, int]:
        """How many rows and tokens these are."""
        return rows.num_rows, pc.sum(rows.column("completion_len")).as_py() or 0

    def ids_of(self, rows: pa.Table) -> npt.NDArray[np.bytes_]:
        """`(rows,)` completion ids."""
        return packed(rows.column("completion_id").to_pylist())

    def take(self, rows: pa.Table, kept: npt.NDArray[np.bool_]) -> pa.Table:
        """The rows where `kept` is true."""
        return rows.filter(pa.array(kept))

    def join(self, parts: Sequence[pa.Table]) -> pa.Table:
        """The rows of all parts."""
        return pa.concat_tables(parts).combine_chunks()


@dataclass(frozen=True)
class TensorBlock:
    """Columns of some completions, the rows of one completion after those of the other."""

    ids: npt.NDArray[np.bytes_]  # (completions,) 16 bytes each
    lengths: npt.NDArray[np.int64]  # (completions,) rows of `columns` that belong to each
    columns: Mapping[str, Tensor]  # (tokens, ...) each


class TensorCodec:
    """Tensor blocks as safetensors: completion_ids (rows, 16) uint8, lengths (rows,) int64, and the columns."""

    suffix = ".safetensors"
    unreadable: tuple[type[Exception], ...] = (OSError, SafetensorError)

    def write(self, rows: TensorBlock, path: Path) -> None:
        """Write the rows to a new file."""
        import torch

        raw = np.frombuffer(rows.ids.tobytes(), np.uint8).reshape(-1, 16).copy()
        tensors = {name: column.contiguous() for name, column in rows.columns.items()}
        tensors |= {"completion_ids": torch.from_numpy(raw), "lengths": torch.from_numpy(np.array(rows.lengths))}
        save_tensors(tensors, path)

    def read(self, path: Path) -> TensorBlock:
        """All rows of a file."""
        from safetensors.torch import load_file

        columns: dict[str, Any] = load_file(path)
        ids, lengths = columns.pop("completion_ids").numpy(), columns.pop("lengths").numpy()
        return TensorBlock(np.frombuffer(ids.tobytes(), "S16"), lengths, columns)

    def ids(self, path: Path) -> npt.NDArray[np.bytes_]:
        """`(rows,)` completion ids of a file."""
        with safe_open(path, "np") as handle:
            return np.frombuffer(handle.get_tensor("completion_ids").tobytes(), "S16")

    def count(self, path: Path) -> int:
        """Completions of a file, from its header."""
        with safe_open(path, "np") as handle:
            rows: int = handle.get_slice("lengths").get_shape()[0]
            return rows

    def size(self, rows: TensorBlock) -> tuple[int, int]:
        """How many rows and tokens these are."""
        return len(rows.ids), int(rows.lengths.sum())

    def ids_of(self, rows: TensorBlock) -> npt.NDArray[np.bytes_]:
        """`(rows,)` completion ids."""
        return rows.ids

    def take(self, rows: TensorBlock, kept: npt.NDArray[np.bool_]) -> TensorBlock:
        """The rows where `kept` is true."""
        import torch

        tokens = torch.from_numpy(np.repeat(kept, rows.lengths))
        columns = {name: column[tokens] for name, column in rows.columns.items()}
        return TensorBlock(rows.ids[kept], rows.lengths[kept], columns)

    def join(self, parts: Sequence[TensorBlock]) -> TensorBlock:
        """The rows of all parts."""
        import torch

        columns = {name: torch.cat([part.columns[name] for part in parts]) for name in parts[0].columns}
        ids, lengths = ([getattr(part, name) for part in parts] for name in ("ids", "lengths"))
        return TensorBlock(np.concatenate(ids), np.concatenate(lengths), columns)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write safetensors with the permissions that any other new file would have: safetensors makes them private."""
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata)
    path.chmod(mode)
