"""Graded lists: one prompt, K completions with a score of each. A row becomes as many pairs as the pairing makes.

A response that is blank or has no score goes to quarantine; the others are paired.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scoreonce.pipeline.text.chat import (
    Render,
    RenderWithTools,
    completion_messages,
    is_blank,
    prompt_messages,
    render_completion,
    render_prompt,
    tools_of,
    with_system,
    with_tools,
)
from scoreonce.pipeline.text.dataset_columns import Columns, Row, number_of
from scoreonce.pipeline.text.formats import Example, check_unicode, conversational, source_of, usable
from scoreonce.pipeline.text.pairing import Pairing, pairs_of, preferences
from scoreonce.pipeline.text.quarantine import RowError, kind_of


@dataclass(frozen=True)
class _Response:
    text: str
    score: float


def read_list(
    row: Row, columns: Columns, render: RenderWithTools, pairing: Pairing, preference_scale: float | None
) -> list[Example | RowError]:
    """The pairs of a row, and an error for each unusable response. Raises `RowError` if the row makes no pair.

    With `preference_scale`, the pairs have the probabilities of `pairing.preferences`, over all usable responses.
    """
    prompt, texts, rendered = _texts(row, columns, with_tools(render, tools_of(columns.value(row, "tools"))))
    check_unicode(prompt)
    responses, refused = _usable(texts, columns.items(row, "scores"))
    scores = [response.score for response in responses]
    pairs = pairs_of(scores, prompt, pairing) if scores else []
    if not pairs:
        raise RowError("no_preference", "; ".join([f"scores {scores}", *(problem.detail for problem in refused)]))
    won = [None] * len(scores) if preference_scale is None else preferences(scores, preference_scale)
    source = source_of(row, columns)
    sides = ((responses[chosen], responses[rejected], won[chosen], won[rejected]) for chosen, rejected in pairs)
    examples = [
        Example(prompt, better.text, worse.text, better.score, worse.score, source, rendered, better_won, worse_won)
        for better, worse, better_won, worse_won in sides
    ]
    return [*refused, *map(_checked, examples)]


def _checked(example: Example) -> Example | RowError:
    try:
        return usable(example)
    except RowError as problem:
        return problem


def _texts(row: Row, columns: Columns, render: Render) -> tuple[str, list[str], bool]:
    """Prompt and responses as text, and whether a chat template wrote them."""
    prompt, responses = columns.required(row, "prompt"), columns.items(row, "responses")
    if (
        conversational(columns)
        or isinstance(prompt, list)
        or any(isinstance(response, list | dict) for response in responses)
    ):
        messages = with_system(prompt_messages(prompt), columns.value(row, "system"))
        text = render_prompt(messages, render)
        sides = [completion_messages(response, f"response {place}") for place, response in enumerate(responses, 1)]
        return text, ["" if is_blank(side) else render_completion(messages, text, side, render) for side in sides], True
    for place, response in enumerate(responses, 1):
        if not isinstance(response, str):
            raise RowError("wrong_type", f"response {place} should be text, is {kind_of(response)}")
    return columns.text(row, "prompt"), responses, False


def _usable(texts: list[str], scores: list[object]) -> tuple[list[_Response], list[RowError]]:
    """The usable responses, and an error for each of the others."""
    if len(texts) != len(scores):
        raise RowError("lists_differ_in_length", f"{len(texts)} responses and {len(scores)} scores")
    kept, refused = [], []
    for place, (text, value) in enumerate(zip(texts, scores, strict=True), 1):
        score = None if value is None else number_of(value, f"score {place}")
        if score is None or math.isinf(score):
            refused.append(RowError("response_has_no_score", f"response {place} of {len(texts)} has score {value}"))
        elif not text.strip():
            refused.append(RowError("response_is_blank", f"response {place} of {len(texts)} is {text!r}"))
        else:
            kept.append(_Response(text, score))
    return kept, refused
