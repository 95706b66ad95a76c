"""Columns of a tensor layer by completion id, read by memory map as they are asked for.

    <store>/<key>/hidden/         the hidden state after the last norm of each completion token: exact, with the head
    <store>/<key>/hidden-int8/    the same in 8 bits: half the size, approximate
    <store>/<key>/topk-tail-128/  the 128 largest log-probs, their tokens, and the mass of all others: approximate
    <store>/<key>/pooled/         the sum of the hidden states of each completion

A hidden state takes 2 d bytes a token in bfloat16, against 2 V for the logits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from safetensors import safe_open
from torch import Tensor

from scoreonce.stages.store.codecs import TensorBlock
from scoreonce.stages.store.head import not_stored
from scoreonce.stages.store.index import ID_BYTES, Ids, StaleIndexError, packed, packed_column, unpacked
from scoreonce.stages.store.layer import Layer

APPROXIMATION = "approximation"  # in the provenance of a block: how far what is kept is off, see `largest_error`
OPEN_BLOCKS = 128  # at a time: a store may have more blocks than a process may have open files


def largest_error(layer: Layer[TensorBlock]) -> float:
    """The largest error of a token's log-prob, in nats, that the files of a layer state; 0 where none does.

    Every process states that of its first shard in all its files. Raises `InputError` at a damaged sidecar.
    """
    stated = (layer.sidecar(path)["provenance"].get(APPROXIMATION, []) for path in layer.files())
    each = (error for errors in stated for error in (errors if isinstance(errors, list) else [errors]))
    return max((error["logps_max"] for error in each), default=0.0)


class _OpenBlock(NamedTuple):
    handle: Any  # owns the memory map
    ids: Ids  # (completions,)
    ends: npt.NDArray[np.int64]  # (completions,) row behind the last one of each completion


class TensorRows:
    """The tensors of one layer by completion id.

    A block's digest is checked before its first row is read. Raises `InputError` where the index finds a damaged block.
    """

    def __init__(self, layer: Layer[TensorBlock]) -> None:
        self.layer = layer
        self._index = layer.index()
        self._open: OrderedDict[int, _OpenBlock] = OrderedDict()

    def missing(self, ids: pl.Series) -> int:
        """How many of `ids`, a column without nulls, are not stored."""
        return int((~self._index.holds(packed_column(ids))).sum())

    def read(self, ids: Sequence[str], column: str) -> Tensor:
        """`(tokens, ...)` values of a column for the completions `ids`, one after the other.

        Raises `InputError` where one is not stored, or stands in a damaged block.
        """
        wanted = packed(ids)
        try:
            return self._read(wanted, column)
        except StaleIndexError:
            self._index = self.layer.rebuilt_index()
            self._open.clear()  # it counts files as the old index did
            return self._read(wanted, column)

    def _read(self, wanted: Ids, column: str) -> Tensor:
        found, files, rows = self._index.locate(wanted)
        if not found.all():
            missing = unpacked(wanted[~found][:1])[0]
            raise not_stored(f"nothing of completion {missing}", self.layer.folder)
        places = zip(wanted, files.tolist(), rows.tolist(), strict=True)
        return torch.cat([self._rows(completion, file, row, column) for completion, file, row in places])

    def _rows(self, completion: np.bytes_, file: int, row: int, column: str) -> Tensor:
        block = self._block(file)
        if row >= len(block.ids) or block.ids[row] != completion:
            raise StaleIndexError
        start = int(block.ends[row - 1]) if row else 0
        rows: Tensor = block.handle.get_slice(column)[start : int(block.ends[row])]
        return rows

    def _block(self, file: int) -> _OpenBlock:
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        path = self.layer.path_of(self._index.files[file])
        self.layer.require_sound(path)
        handle = safe_open(path, "pt").__enter__()
        ids = np.frombuffer(handle.get_tensor("completion_ids").numpy().tobytes(), f"S{ID_BYTES}")
        self._open[file] = _OpenBlock(handle, ids, np.cumsum(handle.get_tensor("lengths").numpy()))
        if len(self._open) > OPEN_BLOCKS:
            self._open.popitem(last=False)[1].handle.__exit__(None, None, None)
        return self._open[file]
