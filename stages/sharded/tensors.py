"""Named tensors of all processes in safetensors files, one file each, and back onto any number of processes.

By torch.distributed.checkpoint in its Hugging Face form: what a file holds of a tensor stands in its header, so nothing
is pickled. A file that one process wrote whole is read the same way.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the parts of tensors that each process holds. All processes call this, with the same names."""
    with _quiet():
        dcp.save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Fill tensors, whole or sharded, from all safetensors files of a folder; each process reads its own parts.

    Values are converted to the dtype that is there. Raises `ValueError` or `RuntimeError` where a name is missing or a
    shape is another.
    """
    with _quiet(), torch.no_grad():
        try:
            dcp.load(
                dict(into), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not dist.is_initialized()
            )
        except dcp.CheckpointException as error:
            raise ValueError("; ".join(str(failure[0]) for failure in error.failures.values())) from None


class Stored(NamedTuple):
    """A tensor in files, as a whole."""

    shape: torch.Size
    dtype: torch.dtype


def stored(folder: Path) -> dict[str, Stored]:
    """The tensors in the safetensors files of a folder, by name."""
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    # There are only tensors.
    return {name: Stored(entry.size, entry.properties.dtype) for name, entry in found.items()}  # type: ignore[union-attr]


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own use of its names, and that there is one process
        yield
