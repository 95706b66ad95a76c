"""A batch of raw rows becomes token pairs and quarantined rows. Each row stands for itself: batches change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scoreonce.pipeline.conversation import Render
from scoreonce.pipeline.formats import Columns, Example, Row, read_row
from scoreonce.pipeline.quarantine import RowError
from scoreonce.pipeline.tokenise import EncodedPair, Limits, TextEncoder, encode_pairs, fit, strip_eos
from scoreonce.schemas import identity


@dataclass(frozen=True)
class Recipe:
    """How the rows of one dataset become tokens."""

    format: str
    columns: Columns
    render: Render
    encoder: TextEncoder
    limits: Limits


@dataclass(frozen=True)
class PreparedPair:
    """One pair, by its raw row, as text, as tokens and by its identities."""

    row: int
    text: Example
    tokens: EncodedPair
    prompt_id: str
    chosen_id: str
    rejected_id: str | None
    pair_id: str


@dataclass(frozen=True)
class QuarantinedRow:
    """One raw row that cannot be used, and why."""

    row: int
    reason: str
    detail: str
    source: str | None


def prepare_rows(
    rows: Sequence[Row | RowError], first_row: int, recipe: Recipe
) -> tuple[list[PreparedPair], list[QuarantinedRow]]:
    """The pairs of a batch of raw rows, in order, and the rows that cannot be used, in order."""
    refused: dict[int, RowError] = {}
    examples: dict[int, Example] = {}
    for row, raw in enumerate(rows, first_row):
        try:
            examples[row] = _read(raw, recipe)
        except RowError as problem:
            refused[row] = problem
    pairs = []
    encoded = encode_pairs(recipe.encoder, list(examples.values()))
    for (row, example), tokens in zip(examples.items(), encoded, strict=True):
        try:
            pairs.append(_identified(row, example, _fitted(tokens, recipe)))
        except RowError as problem:
            refused[row] = problem
    return pairs, [_quarantined(row, rows[row - first_row], refused[row], recipe) for row in sorted(refused)]


def _read(raw: Row | RowError, recipe: Recipe) -> Example:
    if isinstance(raw, RowError):
        raise raw
    return strip_eos(read_row(recipe.format, raw, recipe.columns, recipe.render), recipe.encoder)


def _fitted(tokens: EncodedPair | RowError, recipe: Recipe) -> EncodedPair:
    if isinstance(tokens, RowError):
        raise tokens
    return fit(tokens, recipe.limits, recipe.encoder)


def _identified(row: int, text: Example, tokens: EncodedPair) -> PreparedPair:
    chosen = identity.completion_id(tokens.prompt_ids, tokens.chosen_ids)
    rejected = None if text.rejected is None else identity.completion_id(tokens.prompt_ids, tokens.rejected_ids)
    return PreparedPair(
        row, text, tokens, identity.prompt_id(tokens.prompt_ids), chosen, rejected, identity.pair_id(chosen, rejected)
    )


def _quarantined(row: int, raw: Row | RowError, problem: RowError, recipe: Recipe) -> QuarantinedRow:
    source = None if isinstance(raw, RowError) else recipe.columns.value(raw, "source")
    text = None if source is None else str(source).encode("utf-8", "backslashreplace").decode("utf-8")
    return QuarantinedRow(row, problem.reason, problem.detail, text)
