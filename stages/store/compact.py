"""`scoreonce store compact`: merge the small files of every layer into larger ones.

A merged file is committed before those that it holds are removed. Killed in between, a completion is in two files,
which is harmless; the next `compact` removes the second copy.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scoreonce.pipeline.pages.numbers import size
from scoreonce.stages.store.codecs import Rows
from scoreonce.stages.store.layer import Layer
from scoreonce.stages.store.maintenance import store_folders
from scoreonce.stages.store.sidecar import remove
from scoreonce.stages.store.store import ReferenceStore

logger = logging.getLogger(__name__)

TARGET = 256 * 2**20  # bytes of a merged file


def compact(root: Path, *, target: int = TARGET) -> int:
    """Merge files smaller than half of `target` bytes; print and return how many files there are fewer.

    Raises `InputError` at a damaged file, and where a store is being written to.
    """
    fewer = 0
    for folder in store_folders(root):
        store = ReferenceStore.at(folder)
        with store.writing(timeout=0):
            for layer in store.layers():
                before = len(layer.files())
                compact_layer(layer, target)
                layer.index()
                after = len(layer.files())
                fewer += before - after
                if after < before:
                    logger.info(f"{folder.name}  {layer.name}: {before:,} files merged into {after:,}")
    if fewer == 0:
        logger.info(f"nothing to merge in {root}: no two files smaller than {size(target // 2)} in a layer")
    return fewer


def compact_layer(layer: Layer[Rows], target: int) -> None:
    """Merge the small files of one layer. For a writer."""
    for group in _groups(layer.files(), target):
        parts = [layer.read(path) for path in group]
        rows = layer.codec.join(parts)
        first = np.zeros(len(layer.codec.ids_of(rows)), np.bool_)
        first[np.unique(layer.codec.ids_of(rows), return_index=True)[1]] = True  # of each completion
        provenance = merged_provenance([layer.sidecar(path)["provenance"] for path in group])
        layer.append(rows if first.all() else layer.codec.take(rows, first), provenance)
        for path in group:
            remove(path)


def merged_provenance(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What produced the rows of a merged file: what all parts agree on, and the distinct values where they do not.

    Texts are joined by "and", so that a text stays a text; the list of an earlier merge is continued.
    """
    merged: dict[str, Any] = {}
    for key in sorted({key for part in parts for key in part}):
        values: list[Any] = []
        for value in (part[key] for part in parts if key in part):
            values += [each for each in (value if isinstance(value, list) else [value]) if each not in values]
        texts = all(isinstance(value, str) for value in values)
        merged[key] = values[0] if len(values) == 1 else " and ".join(sorted(values)) if texts else values
    return merged


def _groups(files: list[Path], target: int) -> Iterator[list[Path]]:
    """Neighbours to merge, oldest first, each group of at least two files and about `target` bytes."""
    group: list[Path] = []
    total = 0
    for path in files:
        bytes_ = path.stat().st_size if path.exists() else 0
        if bytes_ >= target / 2:
            continue
        if group and total + bytes_ > target:
            if len(group) > 1:
                yield group
            group, total = [], 0
        group.append(path)
        total += bytes_
    if len(group) > 1:
        yield group
