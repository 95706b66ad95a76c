"""What is to be prepared: the rows of the training and held-out data, and how each becomes pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from scoreonce.pipeline.text.chat import Render
from scoreonce.pipeline.text.dataset_columns import match_columns
from scoreonce.pipeline.text.formats import detect, require_columns
from scoreonce.pipeline.text.pairing import Pairing
from scoreonce.pipeline.text.quarantine import REASONS, RowError
from scoreonce.pipeline.text.rows_to_pairs import PreparationSettings
from scoreonce.pipeline.text.tokenize import Limits, TextEncoder
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Data
from scoreonce.stages.data.raw_data import RawData, columns_of, open_data


@dataclass(frozen=True)
class Dataset:
    """Rows to prepare, and how."""

    raw: RawData
    recipe: PreparationSettings


def open_train(data: Data) -> RawData:
    """The data that the run file names. Raises `InputError` where there are none."""
    return open_data(data.source, subset=data.subset, split=data.split)


def open_test(data: Data) -> RawData | None:
    """The held-out data that the run file names; None where they are split off the training data.

    Raises `InputError` where there are none of that name.
    """
    if data.test_source is not None:
        return open_data(data.test_source, subset=None, split=data.test_split)
    if data.test_split is None:
        return None
    if Path(data.source).is_file():
        raise InputError(
            "A file has no splits.",
            found=f"test_split = {data.test_split!r} of {data.source}",
            where="data.test_split",
            fix="Name the held-out file under data.test_source, or leave both out and set data.test_share.",
        )
    return open_data(data.source, subset=data.subset, split=data.test_split)


def recipe_of(raw: RawData, data: Data, encoder: TextEncoder, render: Render) -> PreparationSettings:
    """How to read a dataset, found out from its first rows. Raises `InputError` where no row can be read."""
    head = next(raw.batches(None), [])
    found = columns_of(head)
    if not found:
        reasons = Counter(row.reason for row in head if isinstance(row, RowError))
        raise InputError(
            "The dataset has no row to read.",
            found=", ".join(f"{reason}: {REASONS[reason]}" for reason in reasons) or "it is empty",
            where=raw.name,
            fix="Give a dataset with rows, one JSON object a line if it is JSON.",
        )
    columns = match_columns(found, data.columns)
    if data.format == "auto":
        name = detect(columns, found, [row for row in head if isinstance(row, dict)])
    else:
        name = data.format
        require_columns(name, columns, found)
    limits = Limits(data.max_length, data.max_prompt_length, data.truncation)
    return PreparationSettings(name, columns, render, encoder, limits, _pairing(data), data.preference_from_scores)


def _pairing(data: Data) -> Pairing:
    return Pairing(
        data.pairing,
        data.min_gap,
        data.pairs_per_prompt,
        data.rso_samples,
        data.rso_beta,
        data.rso_ranking,
        data.seed,
    )
