"""Raw rows to token pairs and quarantined rows, batch by batch. Rows are independent: batching has no effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from scoreonce.pipeline.text.chat import RenderWithTools, conversation_of
from scoreonce.pipeline.text.formats import Columns, Example, Row, conversational, read_row, require_shared_turn
from scoreonce.pipeline.text.graded import read_list
from scoreonce.pipeline.text.pairing import Pairing, preferences
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.pipeline.text.tokenize import EncodedPair, Limits, TextEncoder, encode_pairs, fit, strip_ends
from scoreonce.pipeline.text.transcripts import after_prompt
from scoreonce.schemas import identity

COMPLETIONS = ("chosen", "rejected", "completion", "response_1", "response_2", "responses")
CONVERSATIONS = ("prompt", "messages", *COMPLETIONS)
PLAIN = ("pairs", "implicit")  # the formats of texts that are never messages


@dataclass(frozen=True)
class PreparationSettings:
    """How the rows of one dataset are tokenized."""

    format: str
    columns: Columns
    render: RenderWithTools
    encoder: TextEncoder
    limits: Limits
    pairing: Pairing = field(default_factory=Pairing)
    preference_scale: float | None = None  # Bradley-Terry, if preferences are computed from scores
    turns_only: bool = False  # implicit: refuse a row whose common beginning ends at no turn
    repeating: frozenset[str] = frozenset()  # roles whose texts begin with the prompt, which is cut off


@dataclass(frozen=True)
class PreparedPair:
    """One pair, by its raw row, as text, as tokens and by its identities.

    A good completion of unpaired data is a pair without a rejected side, a bad one a pair without a chosen side; the
    text of such a chosen side is empty, and there are no tokens of it.
    """

    row: int
    text: Example
    tokens: EncodedPair
    prompt_id: str
    chosen_id: str | None
    rejected_id: str | None
    pair_id: str


@dataclass(frozen=True)
class QuarantinedRow:
    """One unusable raw row, and why."""

    row: int
    reason: str
    detail: str
    source: str | None


def prepare_rows(
    rows: Sequence[Row | RowError], first_row: int, recipe: PreparationSettings
) -> tuple[list[PreparedPair], list[QuarantinedRow]]:
    """The pairs of a batch of raw rows and the unusable rows, both in order.

    A row of the format `graded` makes several pairs; its unusable responses are listed one by one.
    """
    refused: list[tuple[int, RowError]] = []
    examples: list[tuple[int, Example]] = []
    for row, raw in enumerate(rows, first_row):
        for found in read_raw(raw, recipe):
            if isinstance(found, RowError):
                refused.append((row, found))
            else:
                examples.append((row, found))
    pairs = []
    encoded = encode_pairs(recipe.encoder, [example for _, example in examples])
    for (row, example), tokens in zip(examples, encoded, strict=True):
        try:
            pairs.append(_identified(row, example, _fitted(tokens, recipe)))
        except RowError as problem:
            refused.append((row, problem))
    refused.sort(key=lambda problem: problem[0])
    return pairs, [_quarantined(row, rows[row - first_row], problem, recipe) for row, problem in refused]


def read_raw(raw: Row | RowError, recipe: PreparationSettings) -> list[Example | RowError]:
    """The pairs of a row, and an error for each unusable part."""
    if isinstance(raw, RowError):
        return [raw]
    try:
        raw = raw if recipe.format in PLAIN else with_messages(raw, recipe.columns)
        raw = _without_prompts(raw, recipe)
        recipe.columns.require_only_text(raw)
        if recipe.turns_only:
            require_shared_turn(raw, recipe.columns)
        if recipe.format == "graded":
            found = read_list(raw, recipe.columns, recipe.render, recipe.pairing, recipe.preference_scale)
            return [_finished(example, recipe) for example in found]
        return [_finished(read_row(recipe.format, raw, recipe.columns, recipe.render), recipe)]
    except RowError as problem:
        return [problem]


def with_messages(row: Row, columns: Columns) -> Row:
    """The row with messages where it has their source as text, as in CSV; the same object where it has none."""
    names = [columns.names[role] for role in CONVERSATIONS if role in columns.names]
    read = {name: _messages(row[name]) for name in names if name in row}
    found = {name: value for name, value in read.items() if value is not row[name]}
    return {**row, **found} if found else row


def _messages(value: object) -> object:
    if isinstance(value, str):
        return conversation_of(value) or value
    if isinstance(value, list) and any(isinstance(item, str) and conversation_of(item) for item in value):
        return [_messages(item) for item in value]
    return value


def _without_prompts(row: Row, recipe: PreparationSettings) -> Row:
    """The row with its completions as they go on after the prompt, where their columns repeat it."""
    prompt = recipe.columns.value(row, "prompt") if recipe.repeating else None
    if not isinstance(prompt, str):
        return row
    chat = conversational(recipe.columns)  # where the space after the prompt is not part of the answer
    names = [recipe.columns.names[role] for role in recipe.repeating]
    return {**row, **{name: _cut(prompt, row.get(name), chat) for name in names}}


def _cut(prompt: str, value: object, chat: bool) -> object:
    if isinstance(value, list):
        return [_cut(prompt, item, chat) for item in value]
    rest = after_prompt(prompt, value) if isinstance(value, str) else None
    if rest is None:
        return value
    return rest.lstrip() if chat else rest


def _finished(example: Example | RowError, recipe: PreparationSettings) -> Example | RowError:
    """The example as it is tokenized, without end tokens and with its preferences, or why it is unusable."""
    if isinstance(example, RowError):
        return example
    try:
        return _with_preferences(strip_ends(example, recipe.encoder), recipe.preference_scale)
    except RowError as problem:
        return problem


def _with_preferences(example: Example, scale: float | None) -> Example:
    """A pair that has scores but no preferences is treated as a graded list of two."""
    scores, stated = (example.chosen_score, example.rejected_score), example.chosen_preference
    if scale is None or stated is not None or None in scores:
        return example
    chosen, rejected = preferences([score for score in scores if score is not None], scale)
    return replace(example, chosen_preference=chosen, rejected_preference=rejected)


def _fitted(tokens: EncodedPair | RowError, recipe: PreparationSettings) -> EncodedPair:
    if isinstance(tokens, RowError):
        raise tokens
    return fit(tokens, recipe.limits, recipe.encoder)


def _identified(row: int, text: Example, tokens: EncodedPair) -> PreparedPair:
    first = identity.completion_id(tokens.prompt_ids, tokens.chosen_ids)
    prompt = identity.prompt_id(tokens.prompt_ids)
    if text.label is False:
        text, tokens = _as_rejected(text, tokens)
        return PreparedPair(row, text, tokens, prompt, None, first, identity.pair_id(None, first))
    second = None if text.rejected is None else identity.completion_id(tokens.prompt_ids, tokens.rejected_ids)
    return PreparedPair(row, text, tokens, prompt, first, second, identity.pair_id(first, second))


def _as_rejected(text: Example, tokens: EncodedPair) -> tuple[Example, EncodedPair]:
    """A bad completion of unpaired data, moved from the chosen side to the rejected one."""
    moved = replace(
        text,
        chosen="",
        rejected=text.chosen,
        chosen_score=None,
        rejected_score=text.chosen_score,
        ends=text.ends[::-1],
    )
    return moved, replace(
        tokens,
        chosen_ids=tokens.rejected_ids,  # none
        rejected_ids=tokens.chosen_ids,
        chosen_truncated=False,
        rejected_truncated=tokens.chosen_truncated,
    )


def _quarantined(row: int, raw: Row | RowError, problem: RowError, recipe: PreparationSettings) -> QuarantinedRow:
    source = None if isinstance(raw, RowError) else recipe.columns.value(raw, "source")
    text = None if source is None else str(source).encode("utf-8", "backslashreplace").decode("utf-8")
    return QuarantinedRow(row, problem.reason, problem.detail, text)
