"""What there is to know of a model and of data before the first run: from config.json, the tokenizer and some rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from scoreonce.pipeline.text.formats import FORMATS
from scoreonce.pipeline.text.rows_to_pairs import PreparedPair, QuarantinedRow, prepare_rows
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import LARGEST, Run
from scoreonce.stages.data.dataset import Dataset, dataset_of, open_train, tokenizer_of
from scoreonce.stages.data.encoding import encoding_of
from scoreonce.stages.models import folders
from scoreonce.stages.models.empty import without_weights
from scoreonce.stages.raw.raw_data import limited

ROWS = 500  # from the first, of the data


@dataclass(frozen=True)
class ModelLook:
    """A model by its configuration. `positions`: as the configuration states them; None where it states none."""

    name: str
    architecture: str
    parameters: int
    positions: int | None
    stored: str | None  # dtype of its weights
    has_template: bool
    vocabulary: int


@dataclass(frozen=True)
class DataLook:
    """The first rows of data, tokenised. `lengths`: tokens of prompt and longer completion of each pair, sorted.

    `rows` of the data in all, 0 where that is not known; `read` of them were tokenised.
    """

    name: str
    rows: int
    read: int
    format: str
    meaning: str
    columns: str
    notes: tuple[str, ...]
    pairs: int
    refused: dict[str, int]
    lengths: tuple[int, ...]
    longest_prompt: int
    rendered: bool  # by a chat template
    paired: bool
    scored: bool
    preferred: bool  # has preference probabilities

    def covering(self, share: float) -> int:
        """The smallest length that this share of the pairs does not exceed."""
        return self.lengths[max(0, math.ceil(share * len(self.lengths) - 1e-9) - 1)]

    def covered(self, length: int) -> float:
        """The share of the pairs that are at most so long."""
        return sum(each <= length for each in self.lengths) / len(self.lengths)


def look_at_model(run: Run) -> ModelLook:
    """The model without its weights. Raises `InputError` where there is none, or it cannot be built."""
    name, revision = run.reference.model, run.reference.revision
    folder = folders.folder_of(name, revision, weights=False)
    config = folders.load_config(folder)
    tokenizer = tokenizer_of(run)
    parameters = sum(each.numel() for each in without_weights(folder, torch.float32).parameters())
    return ModelLook(
        name,
        ", ".join(config.architectures or [type(config).__name__]),
        parameters,
        _positions(config),
        _stored(config),
        tokenizer.chat_template is not None or run.data.chat_template is not None,
        len(tokenizer),
    )


def _positions(config: PretrainedConfig) -> int | None:
    settings = config.get_text_config().to_dict()
    found = settings.get("max_position_embeddings") or settings.get("n_positions")
    return int(found) if found else None


def _stored(config: PretrainedConfig) -> str | None:
    return None if config.dtype is None else str(config.dtype).removeprefix("torch.")


def look_at_data(run: Run) -> DataLook:
    """The first rows as `prepare` reads them, none cut. Raises `InputError` where no row can be used."""
    data = run.data.model_copy(update={"max_length": LARGEST, "max_prompt_length": None})
    dataset = dataset_of(open_train(data), data, encoding_of(tokenizer_of(run), run))
    read, pairs, refused = _sampled(dataset, min(ROWS, data.limit or ROWS))
    if not pairs:
        raise _nothing_usable(dataset, read, refused)
    recipe = dataset.recipe
    names = recipe.columns.names.items()
    return DataLook(
        dataset.raw.name,
        dataset.raw.rows,
        read,
        recipe.format,
        FORMATS[recipe.format].meaning,
        ", ".join(role if role == column else f"{role} = {column}" for role, column in names),
        dataset.notes,
        len(pairs),
        dict(Counter(row.reason for row in refused).most_common()),
        tuple(sorted(_length(pair) for pair in pairs)),
        max(len(pair.tokens.prompt_ids) for pair in pairs),
        any(pair.text.rendered for pair in pairs),
        all(pair.chosen_id is not None and pair.rejected_id is not None for pair in pairs),
        all(pair.text.chosen_score is not None and pair.text.rejected_score is not None for pair in pairs),
        all(pair.text.chosen_preference is not None for pair in pairs),
    )


def _sampled(dataset: Dataset, count: int) -> tuple[int, list[PreparedPair], list[QuarantinedRow]]:
    """The number of rows read, up to `count`, and what became of them."""
    read, pairs, refused = 0, list[PreparedPair](), list[QuarantinedRow]()
    for rows in limited(dataset.raw.batches(dataset.recipe.columns.read), count):
        found, unusable = prepare_rows(rows, read, dataset.recipe)
        read, pairs, refused = read + len(rows), pairs + found, refused + unusable
    return read, pairs, refused


def _length(pair: PreparedPair) -> int:
    return len(pair.tokens.prompt_ids) + max(len(pair.tokens.chosen_ids), len(pair.tokens.rejected_ids))


def _nothing_usable(dataset: Dataset, read: int, refused: Sequence[QuarantinedRow]) -> InputError:
    reasons = Counter(row.reason for row in refused).most_common(3)
    said = ", ".join(f"{reason}: {count:,}" for reason, count in reasons)
    return InputError(
        f"None of the first {read:,} rows can be used.",
        found=f"{said}; the first: {refused[0].detail}" if refused else "no pair, and no row that is refused",
        where=dataset.raw.name,
        fix="Correct the data, or say how to read them, e.g. --set data.format=implicit or "
        "--set 'data.columns={prompt=\"question\"}'.",
    )
