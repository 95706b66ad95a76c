"""The format of raw data and the roles of their columns, found out from the first rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scoreonce.pipeline.detection.roles import Recognised, recognise
from scoreonce.pipeline.text.dataset_columns import Row
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Data
from scoreonce.stages.raw.raw_data import RawData, columns_of


@dataclass(frozen=True)
class Head:
    """The first readable rows of a dataset, its columns, and how to read them."""

    rows: Sequence[Row]
    columns: list[str]
    recognised: Recognised


def head_of(raw: RawData, data: Data) -> Head:
    """The first rows and what they show. Raises `InputError` where there are none, or how to read them is unclear."""
    head = next(raw.batches(None), [])
    columns = columns_of(head)
    if not columns:
        refused = [row for row in head if isinstance(row, RowError)]
        raise InputError(
            "The dataset has no row to read.",
            found="; ".join(f"{row.reason}, {row.detail}" for row in refused[:3]) or "it is empty",
            where=raw.name,
            fix="Give a dataset with rows, one JSON object a line if it is JSON.",
        )
    rows = [row for row in head if isinstance(row, dict)]
    recognised = recognise(
        columns,
        rows,
        data.columns,
        format=None if data.format == "auto" else data.format,
        coding=data.preference,
        untyped=raw.untyped,
    )
    return Head(rows, columns, recognised)
