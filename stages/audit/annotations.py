"""Annotations in the raw data besides the texts: which response came first, which models wrote them, and votes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.audit.checks.judgements import Ballot
from scoreonce.pipeline.text.dataset_columns import Columns
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.stages.common.paths import SPLITS
from scoreonce.stages.config import Audit, Data
from scoreonce.stages.data.prepared_pairs import Inputs
from scoreonce.stages.raw.raw_data import RawData, limited, open_data
from scoreonce.stages.raw.recognition import head_of

# The models of the first and second response, or of the chosen and rejected one, by their names in published datasets.
BY_RESPONSE = (("model_1", "model_2"), ("model_a", "model_b"))
BY_LABEL = (("chosen_model", "rejected_model"), ("chosen-model", "rejected-model"))
SCHEMA = {
    "chosen_position": pl.Int8,
    "chosen_model": pl.String,
    "rejected_model": pl.String,
    "votes_chosen": pl.Int32,
    "votes_rejected": pl.Int32,
}


@dataclass(frozen=True)
class _Reading:
    """Which raw columns to read, and how."""

    columns: Columns
    labelled: bool
    models: tuple[str, str] | None
    votes: str | None
    ballot: Ballot

    @property
    def names(self) -> list[str]:
        """The columns."""
        preference = self.columns.reads("preference") if self.labelled else ()
        return [*preference, *(self.models or ()), *([self.votes] if self.votes else [])]


@dataclass(frozen=True)
class Annotations:
    """`by_split`: the columns of `SCHEMA` that any of the raw data have, one row for each raw row. `votes`: the
    votes on every raw row, also on those in quarantine because the votes are even; None where there are none.
    """

    by_split: Mapping[str, pl.DataFrame]
    votes: pl.DataFrame | None

    def of(self, split: str, rows: pl.Series) -> pl.DataFrame:
        """Those of some raw rows of a split, by their numbers; null where there are none."""
        table = self.by_split[split]
        numbers = pl.select(pl.when(rows < table.height).then(rows)).to_series()
        return table.select(pl.all().gather(numbers))


def raw_annotations(data: Data, audit: Audit, prepared: Inputs) -> Annotations | None:
    """The annotations of the raw rows; None if there are none. `prepared`: the inputs of `prepare`.

    Positions need data of the format `labelled`. Raw data that are not here, or not those that were prepared, are left
    alone, unless `audit.votes` asks for them: then that is an `InputError`, as is a column that is not there.
    """
    names = [name for name in (data.source, data.test_source) if name is not None]
    if not audit.votes and not all(Path(name).expanduser().exists() for name in names):
        return None  # an audit does not wait for the Hub
    tables: dict[str, pl.DataFrame] = {}
    votes = []
    for splits, raw in _raw_sets(data):
        if not _was_prepared(raw, prepared):
            if audit.votes:
                raise InputError(
                    "The votes cannot be read: the data have changed since `prepare`.",
                    found="contents that differ from the manifest",
                    where=raw.name,
                    fix="Run `scoreonce prepare` again.",
                )
            return None
        reading = _reading(raw, data, audit)
        if reading.names:
            table = _read(raw, reading, data)
            tables |= dict.fromkeys(splits, table)
            votes += [table.select("votes_chosen", "votes_rejected")] if "votes_chosen" in table.columns else []
    if not tables:
        return None
    # With the same columns in both splits, for their pairs come into one table.
    names = [name for name in SCHEMA if any(name in table.columns for table in tables.values())]
    nothing = pl.DataFrame(schema={name: SCHEMA[name] for name in names})
    every: dict[str, pl.DataFrame] = {
        split: pl.concat([nothing, tables.get(split, nothing)], how="diagonal") for split in SPLITS
    }
    return Annotations(every, pl.concat(votes) if votes else None)


def _raw_sets(data: Data) -> list[tuple[tuple[str, ...], RawData]]:
    """The raw data with the splits whose pairs come from them."""
    opened = partial(open_data, streaming=data.streaming)
    train = opened(data.source, subset=data.subset, split=data.split)
    if data.test_source is not None:
        return [(("train",), train), (("test",), opened(data.test_source, subset=None, split=data.test_split))]
    if data.test_split is not None:
        return [(("train",), train), (("test",), opened(data.source, subset=data.subset, split=data.test_split))]
    return [(("train", "test"), train)]


def _was_prepared(raw: RawData, prepared: Inputs) -> bool:
    return all(name in prepared and prepared[name].content == found.content for name, found in raw.inputs.items())


def _reading(raw: RawData, data: Data, audit: Audit) -> _Reading:
    head = head_of(raw, data)
    found, columns, labelled = head.columns, head.recognised.columns, head.recognised.format == "labelled"
    if audit.votes and audit.votes not in found:
        raise InputError(
            f"The dataset has no column {audit.votes!r}.",
            found=f"columns {', '.join(found)}.{did_you_mean(audit.votes, found)}",
            where="audit.votes",
            fix="Set audit.votes to the column with the votes.",
        )
    models = next((pair for pair in (BY_RESPONSE if labelled else BY_LABEL) if set(pair) <= set(found)), None)
    # One row of a graded list may make several pairs, so it has no single pair of responses to vote on.
    graded = head.recognised.format == "graded"
    return _Reading(
        columns,
        labelled,
        None if graded else models,
        None if graded else audit.votes,
        Ballot(audit.vote_first, audit.vote_second),
    )


def _read(raw: RawData, reading: _Reading, data: Data) -> pl.DataFrame:
    """A row for each raw row, with the columns of which any has a value."""
    parts = (
        pl.DataFrame([_annotation(row, reading) for row in batch], schema=SCHEMA)
        for batch in limited(raw.batches(reading.names), data.limit)
    )
    table = pl.concat([pl.DataFrame(schema=SCHEMA), *parts], rechunk=True)
    return table.select(name for name in SCHEMA if table[name].null_count() < table.height)


def _annotation(row: Any, reading: _Reading) -> dict[str, Any]:
    if isinstance(row, RowError):
        return dict.fromkeys(SCHEMA)
    second = reading.labelled and _second_is_better(row, reading.columns)
    first, other = reading.models or (None, None)
    models = [None if name is None or row.get(name) is None else str(row[name]) for name in (first, other)]
    votes = reading.ballot.count(row.get(reading.votes)) if reading.votes else (None, None)
    if second:
        models, votes = models[::-1], votes[::-1]
    return {
        "chosen_position": (2 if second else 1) if reading.labelled else None,
        "chosen_model": models[0],
        "rejected_model": models[1],
        "votes_chosen": votes[0],
        "votes_rejected": votes[1],
    }


def _second_is_better(row: Mapping[str, Any], columns: Columns) -> bool:
    try:
        return (columns.number(row, "preference") or 0.0) > 0.5
    except RowError:
        return False  # the row is in quarantine
