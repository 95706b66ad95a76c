"""What is to be prepared: the rows of the training and held-out data, and how each becomes pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scoreonce.pipeline.detection.roles import Recognised, recognise
from scoreonce.pipeline.text.chat import Render
from scoreonce.pipeline.text.pairing import Pairing
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.pipeline.text.rows_to_pairs import PreparationSettings
from scoreonce.pipeline.text.tokenize import Limits, TextEncoder
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Data
from scoreonce.stages.data.raw_data import RawData, columns_of, open_data


@dataclass(frozen=True)
class Dataset:
    """Rows to prepare, and how; `notes` are decisions about its columns, to log."""

    raw: RawData
    recipe: PreparationSettings
    notes: tuple[str, ...] = ()


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


def dataset_of(raw: RawData, data: Data, encoder: TextEncoder, render: Render) -> Dataset:
    """The dataset and how to read it, found out from its first rows. Raises `InputError` where that cannot be told."""
    head = next(raw.batches(None), [])
    found = columns_of(head)
    if not found:
        refused = [row for row in head if isinstance(row, RowError)]
        raise InputError(
            "The dataset has no row to read.",
            found="; ".join(f"{row.reason}, {row.detail}" for row in refused[:3]) or "it is empty",
            where=raw.name,
            fix="Give a dataset with rows, one JSON object a line if it is JSON.",
        )
    recognised = recognise(
        found,
        [row for row in head if isinstance(row, dict)],
        data.columns,
        format=None if data.format == "auto" else data.format,
        coding=data.preference,
        untyped=raw.untyped,
    )
    if recognised.has_system:
        _require_system_turns(recognised, render)
    recipe = PreparationSettings(
        recognised.format,
        recognised.columns,
        render,
        encoder,
        Limits(data.max_length, data.max_prompt_length, data.truncation),
        _pairing(data),
        data.preference_from_scores,
        recognised.turns_only,
    )
    return Dataset(raw, recipe, recognised.notes)


def _require_system_turns(recognised: Recognised, render: Render) -> None:
    """Raise `InputError` where there is no chat template that takes the system turn of the data."""
    try:
        render([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], True)
    except (InputError, RowError) as error:
        raise InputError(
            "The data have a system prompt, and the tokenizer has no chat template that takes one.",
            found=error.found if isinstance(error, InputError) else error.detail,
            where=f"the column of the prompt, {recognised.columns.names.get('prompt', 'chosen')}",
            fix="Set data.tokenizer to that of a model with system turns, or leave the system prompt out: "
            'data.columns = { system = "" }.',
        ) from None


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
