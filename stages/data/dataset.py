"""What is to be prepared: the rows of the training and held-out data, and how each becomes pairs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from scoreonce.pipeline.text.dataset_columns import Columns, Row
from scoreonce.pipeline.text.pairing import Pairing
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.pipeline.text.rows_to_pairs import COMPLETIONS, PLAIN, PreparationSettings, with_messages
from scoreonce.pipeline.text.tokenize import Limits
from scoreonce.pipeline.text.transcripts import repeats_prompt
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Data, Run
from scoreonce.stages.data.encoding import Encoding
from scoreonce.stages.models.tokenizers import load_tokenizer
from scoreonce.stages.raw.raw_data import RawData, is_one_file, open_data
from scoreonce.stages.raw.recognition import head_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """Rows to prepare, and how; `notes` are decisions about its columns, to log."""

    raw: RawData
    recipe: PreparationSettings
    notes: tuple[str, ...] = ()


def tokenizer_of(run: Run) -> PreTrainedTokenizerBase:
    """The tokenizer that the run file names, by default the reference model's. Raises `InputError` for none."""
    if run.data.workers is not None:
        # The tokenizers library runs its own threads and reads their number here, once per process.
        os.environ["RAYON_NUM_THREADS"] = str(run.data.workers)
    if run.data.tokenizer is not None:
        return load_tokenizer(run.data.tokenizer)
    return load_tokenizer(run.reference.model, revision=run.reference.revision)


def open_train(data: Data) -> RawData:
    """The data that the run file names. Raises `InputError` where there are none."""
    return open_data(data.source, subset=data.subset, split=data.split, streaming=data.streaming)


def open_test(data: Data) -> RawData | None:
    """The held-out data that the run file names; None where they are split off the training data.

    Raises `InputError` where there are none of that name.
    """
    if data.test_source is not None:
        return open_data(data.test_source, subset=None, split=data.test_split, streaming=data.streaming)
    if data.test_split is None:
        return None
    if is_one_file(data.source):
        raise InputError(
            "A file has no splits.",
            found=f"test_split = {data.test_split!r} of {data.source}",
            where="data.test_split",
            fix="Name the held-out file under data.test_source, or leave both out and set data.test_share.",
        )
    return open_data(data.source, subset=data.subset, split=data.test_split, streaming=data.streaming)


def dataset_of(raw: RawData, data: Data, encoding: Encoding) -> Dataset:
    """The dataset and how to read it, found out from its first rows. Raises `InputError` where that cannot be told."""
    head = head_of(raw, data)
    rows, recognised = head.rows, head.recognised
    columns, repeating = recognised.columns, _repeating(recognised.columns, rows)
    read = rows if recognised.format in PLAIN else [with_messages(row, columns) for row in rows]
    _log_changes(raw.name, columns, _spelled(columns, rows, read), repeating)
    recipe = PreparationSettings(
        recognised.format,
        columns,
        encoding.render,
        encoding.encoder,
        Limits(data.max_length, data.max_prompt_length, data.truncation),
        _pairing(data),
        data.preference_from_scores,
        recognised.turns_only,
        repeating,
    )
    return Dataset(raw, recipe, recognised.notes)


def _spelled(columns: Columns, rows: Sequence[Row], read: Sequence[Row]) -> list[str]:
    """The columns that hold messages as text."""
    pairs = [(row, other) for row, other in zip(rows, read, strict=True) if row is not other]
    return [name for name in columns.names.values() if any(row.get(name) != other.get(name) for row, other in pairs)]


def _repeating(columns: Columns, rows: Sequence[Row]) -> frozenset[str]:
    """The roles whose texts begin with the prompt in most rows."""

    def value(row: Row, role: str) -> object:
        try:
            return columns.value(row, role)
        except RowError:
            return None

    def texts(role: str) -> list[tuple[str, str]]:
        prompts = [(value(row, "prompt"), value(row, role)) for row in rows]
        sides = [(prompt, text) for prompt, side in prompts for text in (side if isinstance(side, list) else [side])]
        return [(prompt, side) for prompt, side in sides if isinstance(prompt, str) and isinstance(side, str)]

    own = [role for role in COMPLETIONS if role in columns.names and role not in columns.made]
    return frozenset(role for role in own if repeats_prompt(texts(role)))


def _log_changes(name: str, columns: Columns, spelled: Sequence[str], repeating: frozenset[str]) -> None:
    if spelled:
        logger.info(f"Text in {', '.join(spelled)} of {name} is the source of messages, and read as messages")
    if repeating:
        repeated = ", ".join(columns.names[role] for role in COMPLETIONS if role in repeating)
        logger.info(f"The prompt is repeated at the start of {repeated} of {name}, and cut off there")


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
