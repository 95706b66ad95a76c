"""The measures of every pair, made once from the files of `prepare` and kept for later audits of the same pairs.

Reads texts and token ids in pieces, on all cores: polars, numpy and rensa release the interpreter lock. Writes
<out>/audit/measures.parquet and, last, measures.json, which says what they were made from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import batched, chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from scoreonce.pipeline.audit import near, text, tokens
from scoreonce.pipeline.audit.contamination import EvaluationGrams
from scoreonce.pipeline.audit.ragged import Counts, Ragged, concatenate
from scoreonce.pipeline.audit.relations import with_relations
from scoreonce.pipeline.audit.schema_rules import broken_rules, with_rules
from scoreonce.schemas.tables import Pair
from scoreonce.stages.config import Audit
from scoreonce.stages.files import read_json, sha256, write_json, write_parquet
from scoreonce.stages.layout import SPLITS, Layout, Split
from scoreonce.stages.progress import progress

FORMAT = 1
ROWS_AT_ONCE = 8192
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Inputs:
    """What measures are made with, besides the pairs."""

    settings: Audit
    special: tokens.SpecialIds | None
    evaluation: EvaluationGrams | None
    evaluation_digests: dict[str, str]
    annotations: pl.DataFrame | None  # split, row and what the raw data say besides


@dataclass(frozen=True)
class Piece:
    """Consecutive row groups of one split; `first` is the number of its first pair over both splits."""

    path: Path
    split: Split
    groups: list[int]
    first: int
    rows: int

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """Its rows."""
        frame = pl.from_arrow(pq.ParquetFile(self.path).read_row_groups(self.groups, columns=list(columns)))
        assert isinstance(frame, pl.DataFrame)
        return frame


def measures(layout: Layout, inputs: Inputs) -> Path:
    """The file of measures, made anew where pairs or settings are others than it was made from."""
    path, record = layout.audit / "measures.parquet", layout.audit / "measures.json"
    identity = _identity(layout, inputs)
    if not _is_made_from(record, path, identity):
        record.unlink(missing_ok=True)
        frame = _measure(layout, inputs)
        write_parquet(path, frame.to_arrow(compat_level=pl.CompatLevel.oldest()), rows_per_group=65_536)
        write_json(record, identity)
    return path


def _identity(layout: Layout, inputs: Inputs) -> dict[str, Any]:
    special = None if inputs.special is None else {**asdict(inputs.special), "every": inputs.special.every.tolist()}
    settings = inputs.settings.model_dump(include={"near_duplicates", "similarity", "ngram", "votes", "vote_first",
                                                   "vote_second"})  # fmt: skip
    return {"format": FORMAT, "pairs": sha256(layout.pairs_manifest), "settings": settings, "special": special,
            "contamination": inputs.evaluation_digests}  # fmt: skip


def _is_made_from(record: Path, path: Path, identity: dict[str, Any]) -> bool:
    try:
        return path.is_file() and read_json(record) == identity
    except (OSError, ValueError):
        return False


def _measure(layout: Layout, inputs: Inputs) -> pl.DataFrame:
    pieces = _pieces(layout)
    sketch = inputs.settings.near_duplicates
    measured: list[text.TextMeasures] = []
    with progress(sum(piece.rows for piece in pieces), "pairs", "Reading texts") as bar:
        for piece, (scalars, found) in zip(
            pieces, _concurrently(lambda piece: _read_piece(piece, inputs, sketch), pieces), strict=True):
            measured.append(text.TextMeasures(scalars.hstack(found.frame), found.prompts, found.completions))
            bar.update(piece.rows)
    if not measured:
        raise AssertionError("require_prepared lets no run without pairs through")
    frame = pl.concat([part.frame for part in measured]).hstack(_token_measures(layout, inputs.special))
    frame = with_relations(with_rules(frame, _broken(pieces, frame)).lazy()).collect()
    if inputs.annotations is not None:
        frame = frame.join(inputs.annotations, on=["split", "row"], how="left", maintain_order="left")
    return _with_near_duplicates(frame, measured, pieces, inputs.settings.similarity) if sketch else frame


def _pieces(layout: Layout) -> list[Piece]:
    pieces: list[Piece] = []
    first = 0
    for split in SPLITS:
        metadata = pq.ParquetFile(layout.pairs(split)).metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        each = max(1, ROWS_AT_ONCE // max(sizes, default=1))
        for groups in batched(range(len(sizes)), each):
            rows = sum(sizes[group] for group in groups)
            pieces.append(Piece(layout.pairs(split), split, list(groups), first, rows))
            first += rows
    return pieces
