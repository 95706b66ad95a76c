"""Dataset formats: detecting the format from the columns, and reading a row of it.

labelled    prompt, response_1, response_2, preference (0: the first is better, 1: the second), as text or messages
pairs       prompt, chosen, rejected as text
implicit    chosen, rejected as two whole transcripts that share the prompt
messages    chosen, rejected (and perhaps prompt) as lists of messages
completion  prompt, completion as text or messages, or one list of messages: for sft
unpaired    the same with a label, whether the completion is good: for kto and bco
graded      prompt, responses, scores: K completions and a score of each, paired by `graded.py`
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from scoreonce.pipeline.text.chat import (
    Message,
    Render,
    RenderWithTools,
    completion_messages,
    is_blank,
    messages_of,
    prompt_messages,
    render_completion,
    render_prompt,
    shared_messages,
    tools_of,
    with_system,
    with_tools,
)
from scoreonce.pipeline.text.dataset_columns import Columns, Row
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.pipeline.text.transcripts import shares_a_turn, split_transcripts
from scoreonce.schemas.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Example:
    """A preference as text. `rendered`: written by a chat template, so that no special tokens are added.

    In unpaired data `chosen` is the only completion, and `label` says whether it is a good one. `ends` are the ids of
    the tokens that ended the two completions; None where a text had none.
    """

    prompt: str
    chosen: str
    rejected: str | None
    chosen_score: float | None = None
    rejected_score: float | None = None
    source: str | None = None
    rendered: bool = False
    chosen_preference: float | None = None
    rejected_preference: float | None = None
    label: bool | None = None
    ends: tuple[int | None, int | None] = (None, None)


# Columns that a chat template alone can make part of the prompt.
CONVERSATIONAL = ("system", "tools")
Read = Callable[[Row, Columns, Render], Example]
# Words in the names of columns that are likely to have a role, for the mapping that a message proposes.
LIKELY = {
    "prompt": ("prompt", "question", "instruction", "query", "input", "context", "ask"),
    "chosen": ("chosen", "better", "prefer", "win", "good", "accept", "positive"),
    "rejected": ("reject", "worse", "los", "bad", "negative"),
    "preference": ("prefer", "label", "winner", "better"),
}


def detect(columns: Columns, found: list[str], sample: Sequence[Row]) -> str:
    """The format that the columns indicate; `sample` tells text from messages. Raises `InputError` if none matches."""
    has = columns.names.keys()
    if {"chosen", "rejected"} <= has:
        if 2 * sum(_has_messages(row, columns) for row in sample) >= max(1, len(sample)):
            return "messages"
        if "prompt" not in has:
            return "implicit"
        return "messages" if conversational(columns) else "pairs"
    if {"response_1", "response_2", "preference"} <= has:
        return "labelled"
    if {"prompt", "responses", "scores"} <= has:
        return "graded"
    if {"prompt", "completion"} <= has or "messages" in has:
        return "unpaired" if "label" in has else "completion"
    raise _missing(found, "prompt, chosen, rejected", ["prompt", "chosen", "rejected"], has)


def _has_messages(row: Row, columns: Columns) -> bool:
    try:
        return any(isinstance(columns.value(row, role), list | dict) for role in ("prompt", "chosen", "rejected"))
    except RowError:
        return False


def conversational(columns: Columns) -> bool:
    """Whether a column belongs to the prompt that only a chat template can write, so that text is read as messages."""
    return not columns.names.keys().isdisjoint(CONVERSATIONAL)


def require_columns(name: str, columns: Columns, found: list[str]) -> None:
    """Raise `InputError` if the dataset lacks a column that the format needs, or has one that it would drop."""
    has = columns.names.keys()
    dropped = [role for role in CONVERSATIONAL if role in has and name in ("pairs", "implicit")]
    if dropped:
        raise InputError(
            f"The format {name} has no place for a column: {', '.join(columns.names[role] for role in dropped)}.",
            found=f"columns {', '.join(found)}",
            where="data.format, and the columns of data.source",
            fix='Set data.format = "messages", which writes it with the chat template, or leave it out with '
            f'data.columns = {{ {", ".join(f"""{role} = "" """.strip() for role in dropped)} }}.',
        )
    needs = FORMATS[name].needs
    if "messages" in has and "completion" in needs:
        needs = tuple(role for role in needs if role not in ("prompt", "completion"))
    if not set(needs) <= has:
        raise _missing(found, ", ".join(needs), list(needs), has)


def _missing(found: list[str], wanted: str, needs: Sequence[str], has: Collection[str]) -> InputError:
    absent = [role for role in needs if role not in has]
    left = [name for name in found if name not in has]
    hint = "".join(did_you_mean(role, left) for role in absent)
    mapping = ", ".join(f'{role} = "{_likely(role, left)}"' for role in absent)
    return InputError(
        f"The dataset lacks a column: {', '.join(absent)}.",
        found=f"columns {', '.join(found) or '(none)'}.{hint}",
        where="data.source",
        fix=f"It needs {wanted}. Name the dataset's own columns: data.columns = {{ {mapping} }}, or set data.format.",
    )


def _likely(role: str, names: Sequence[str]) -> str:
    """The column that a role's own words name, to write into a mapping; `…` if there is none."""
    matches = [name for name in names if any(word in name.lower() for word in LIKELY.get(role, (role,)))]
    return matches[0] if matches else "…"


def read_row(name: str, row: Row, columns: Columns, render: RenderWithTools) -> Example:
    """One row, of any format but `graded`, as text. Raises `RowError` with the first reason that applies."""
    return usable(_READERS[name](row, columns, with_tools(render, tools_of(columns.value(row, "tools")))))


def usable(example: Example) -> Example:
    """The example. Raises `RowError` if a side is blank or not valid Unicode, or both sides are the same."""
    for text in (example.prompt, example.chosen, example.rejected or ""):
        check_unicode(text)
    if not example.chosen.strip():
        raise RowError("chosen_is_blank", repr(example.chosen))
    if example.rejected is not None and not example.rejected.strip():
        raise RowError("rejected_is_blank", repr(example.rejected))
    if example.chosen == example.rejected:
        raise RowError("sides_are_identical", repr(example.chosen))
    return example


def check_unicode(text: str) -> None:
    """Raise `RowError` for half of a surrogate pair, which JSON can hold but UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError("invalid_utf8", f"half of a surrogate pair at character {error.start}") from None


def source_of(row: Row, columns: Columns) -> str | None:
    """The source that the row names. Raises `RowError` if it is not valid Unicode."""
    source = columns.value(row, "source")
    source = None if source is None else str(source)
    check_unicode(source or "")
    return source


def _example(
    row: Row, columns: Columns, prompt: str, chosen: str, rejected: str | None, *, rendered: bool = False
) -> Example:
    return Example(
        prompt,
        chosen,
        rejected,
        columns.number(row, "chosen_score"),
        columns.number(row, "rejected_score"),
        source_of(row, columns),
        rendered,
        columns.probability(row, "chosen_preference"),
        columns.probability(row, "rejected_preference"),
    )


def _read_pairs(row: Row, columns: Columns, render: Render) -> Example:
    return _example(
        row, columns, columns.text(row, "prompt"), columns.text(row, "chosen"), columns.text(row, "rejected")
    )


def _read_implicit(row: Row, columns: Columns, render: Render) -> Example:
    chosen, rejected = columns.text(row, "chosen"), columns.text(row, "rejected")
    if chosen == rejected:
        raise RowError("sides_are_identical", repr(chosen[-80:]))
    prompt, *sides = split_transcripts(chosen, rejected)
    if not prompt.strip():
        raise RowError("no_shared_prompt", f"{chosen[:60]!r} and {rejected[:60]!r}")
    return _example(row, columns, prompt, *sides)


def require_shared_turn(row: Row, columns: Columns) -> None:
    """Raise `RowError` where two transcripts differ before the first assistant's turn, so that no prompt is certain."""
    chosen, rejected = columns.text(row, "chosen"), columns.text(row, "rejected")
    if chosen != rejected and not shares_a_turn(chosen, rejected):
        raise RowError(
            "no_shared_prompt", f"no assistant's turn in what both begin with: {chosen[:60]!r} and {rejected[:60]!r}"
        )


def _read_labelled(row: Row, columns: Columns, render: Render) -> Example:
    first, second = columns.required(row, "response_1"), columns.required(row, "response_2")
    preference = columns.number(row, "preference")
    if preference is None:
        raise RowError("missing_value", f"no {columns.names['preference']!r}")
    if not 0 <= preference <= 1 or preference == 0.5:
        raise RowError(
            "no_preference",
            f"{columns.names['preference']!r} is {preference:g}; below 0.5 prefers the first, above 0.5 the second",
        )
    chosen, rejected = (first, second) if preference < 0.5 else (second, first)
    prompt = columns.value(row, "prompt")
    if conversational(columns) or any(isinstance(value, list | dict) for value in (prompt, first, second)):
        return _read_conversations(row, columns, render, prompt, chosen, rejected)
    for role in ("response_1", "response_2"):
        columns.text(row, role)
    return _example(row, columns, columns.text(row, "prompt"), chosen, rejected)


def _read_messages(row: Row, columns: Columns, render: Render) -> Example:
    chosen, rejected = columns.required(row, "chosen"), columns.required(row, "rejected")
    return _read_conversations(row, columns, render, columns.value(row, "prompt"), chosen, rejected)


def _read_conversations(
    row: Row, columns: Columns, render: Render, prompt: object, better: object, worse: object
) -> Example:
    chosen, rejected = completion_messages(better, "chosen"), completion_messages(worse, "rejected")
    messages, chosen, rejected = _split_messages(prompt, chosen, rejected)
    if is_blank(chosen):
        raise RowError("chosen_is_blank", repr(chosen))
    if is_blank(rejected):
        raise RowError("rejected_is_blank", repr(rejected))
    return _rendered(row, columns, render, messages, chosen, rejected)


def _split_messages(
    prompt: object, chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Prompt and completions as messages; whole conversations (beginning with another role) are split."""
    if chosen == rejected:
        raise RowError("sides_are_identical", repr(chosen))
    whole = bool(chosen and rejected) and "assistant" not in (chosen[0]["role"], rejected[0]["role"])
    if prompt is not None and not whole:
        return prompt_messages(prompt), chosen, rejected
    end = shared_messages(chosen, rejected)
    if end == 0:
        raise RowError("no_shared_prompt", "the conversations have no common message before an assistant's turn")
    return chosen[:end], chosen[end:], rejected[end:]


def _rendered(
    row: Row,
    columns: Columns,
    render: Render,
    prompt: list[Message],
    chosen: list[Message],
    rejected: list[Message] | None,
) -> Example:
    prompt = with_system(prompt, columns.value(row, "system"))
    text = render_prompt(prompt, render)
    sides = [None if side is None else render_completion(prompt, text, side, render) for side in (chosen, rejected)]
    return _example(row, columns, text, sides[0] or "", sides[1], rendered=True)


def _read_completion(row: Row, columns: Columns, render: Render) -> Example:
    if not {"prompt", "completion"} <= columns.names.keys():
        conversation = messages_of(columns.required(row, "messages"), "messages")
        return _rendered_completion(row, columns, render, conversation[:-1], conversation[-1:])
    prompt, completion = columns.required(row, "prompt"), columns.required(row, "completion")
    if conversational(columns) or not (isinstance(prompt, str) and isinstance(completion, str)):
        return _rendered_completion(
            row, columns, render, prompt_messages(prompt), completion_messages(completion, "completion")
        )
    return _example(row, columns, columns.text(row, "prompt"), columns.text(row, "completion"), None)


def _read_unpaired(row: Row, columns: Columns, render: Render) -> Example:
    label = columns.required(row, "label")
    return replace(_read_completion(row, columns, render), label=label)


def _rendered_completion(
    row: Row, columns: Columns, render: Render, prompt: list[Message], completion: list[Message]
) -> Example:
    if any(message["role"] != "assistant" for message in completion[:1]):
        raise RowError("wrong_type", f"the completion should be an assistant's message, is {completion[0]!r}")
    if is_blank(completion):
        raise RowError("chosen_is_blank", repr(completion))
    return _rendered(row, columns, render, prompt, completion, None)


@dataclass(frozen=True)
class Format:
    """One format: its meaning and the columns it needs."""

    meaning: str
    needs: tuple[str, ...]


FORMATS: dict[str, Format] = {
    "pairs": Format("prompt, chosen and rejected as text", ("prompt", "chosen", "rejected")),
    "implicit": Format("two whole transcripts that share the prompt", ("chosen", "rejected")),
    "messages": Format("conversations, rendered with the chat template", ("chosen", "rejected")),
    "labelled": Format("two responses and which one is better", ("response_1", "response_2", "preference")),
    "graded": Format("lists of responses with scores", ("prompt", "responses", "scores")),
    "completion": Format("one completion per prompt, for sft", ("prompt", "completion")),
    "unpaired": Format("single completions, good or bad, for kto and bco", ("prompt", "completion", "label")),
}
_READERS: dict[str, Read] = {
    "pairs": _read_pairs,
    "implicit": _read_implicit,
    "messages": _read_messages,
    "labelled": _read_labelled,
    "completion": _read_completion,
    "unpaired": _read_unpaired,
}
