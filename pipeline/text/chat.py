"""Conversations: lists of messages, rendered to text by the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scoreonce.pipeline.text.quarantine import RowError, kind_of

Message = dict[str, Any]
# (messages, add_generation_prompt) -> text
Render = Callable[[list[Message], bool], str]


def messages_of(value: object, name: str) -> list[Message]:
    """A column's value as messages, without null keys. Raises `RowError` if it is not a list of messages."""
    if not isinstance(value, list):
        raise RowError("wrong_type", f"{name} should be a list of messages, is {kind_of(value)}")
    return [_message(item, f"{name}[{index}]") for index, item in enumerate(value)]


def _message(value: object, name: str) -> Message:
    if not isinstance(value, dict):
        raise RowError("wrong_type", f"{name} should be a message, is {kind_of(value)}")
    for key in ("role", "content"):
        if not isinstance(value.get(key), str):
            raise RowError("wrong_type", f"{name} should have text under {key!r}, has {kind_of(value.get(key))}")
    # Parquet gives every struct all keys; templates test for keys such as tool_calls.
    return {key: item for key, item in value.items() if item is not None}


def completion_messages(value: object, name: str) -> list[Message]:
    """A completion as messages: a text is one assistant message."""
    return [{"role": "assistant", "content": value}] if isinstance(value, str) else messages_of(value, name)


def prompt_messages(prompt: object) -> list[Message]:
    """A prompt as messages: a text is one user message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else messages_of(prompt, "prompt")


def shared_messages(chosen: list[Message], rejected: list[Message]) -> int:
    """How many messages of two whole conversations are the prompt: the shared ones before an assistant's turn."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    while shared > 0 and (
        shared == len(chosen)
        or shared == len(rejected)
        or not chosen[shared]["role"] == rejected[shared]["role"] == "assistant"
    ):
        shared -= 1
    return shared


def is_blank(messages: list[Message]) -> bool:
    """Whether no message has any content."""
    return not any(message["content"].strip() for message in messages)


def render_prompt(prompt: list[Message], render: Render) -> str:
    """The prompt as the model sees it at generation. Raises `RowError` if the template does."""
    if not prompt:
        raise RowError("missing_value", "the prompt has no message")
    return render(prompt, True)


def render_completion(prompt: list[Message], prompt_text: str, completion: list[Message], render: Render) -> str:
    """The part of the conversation's text after the prompt's.

    Raises `RowError` if the template renders the prompt differently once a completion follows: the model would be
    trained on a text that it never sees at generation.
    """
    whole = render([*prompt, *completion], False)
    if not whole.startswith(prompt_text):
        at = next((i for i, (a, b) in enumerate(zip(prompt_text, whole, strict=False)) if a != b), len(whole))
        raise RowError(
            "template_rewrites_prompt",
            f"at character {at}: {prompt_text[at : at + 40]!r} alone, {whole[at : at + 40]!r} with the completion",
        )
    return whole[len(prompt_text) :]
