"""The token by which a chat template ends an assistant's turn, found by rendering one.

It need not be the tokenizer's EOS: ChatML on a base model ends turns with <|im_end|>, Llama 3 with <|eot_id|>.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scoreonce.pipeline.text.chat import RenderWithTools
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.pipeline.text.tokenize import TurnEnd
from scoreonce.schemas.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER = "an answer of no meaning"


def find_turn_end(tokenizer: PreTrainedTokenizerBase, render: RenderWithTools) -> TurnEnd | None:
    """The first control token that the template writes after an answer, and the text after that token.

    None if the template writes no such token, refuses a plain conversation, or is absent.
    """
    try:
        text = render([{"role": "user", "content": "a question"}, {"role": "assistant", "content": ANSWER}], False)
    except (RowError, InputError):
        return None
    _, found, tail = text.rpartition(ANSWER)
    if not found:
        return None
    return (
        _first(tail, _control_tokens(tokenizer, special=True))
        or _first(tail, _control_tokens(tokenizer))
        or _first(tail, _written_like_one(tokenizer, tail.strip()))
    )


def _control_tokens(tokenizer: PreTrainedTokenizerBase, *, special: bool = False) -> dict[str, int]:
    """Tokens that were added to the vocabulary, by their text; with `special`, those declared to be special."""
    return {
        token.content: number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or not special
    }


def _written_like_one(tokenizer: PreTrainedTokenizerBase, text: str) -> dict[str, int]:
    """An ordinary token of the vocabulary that is spelled as control tokens are: a converted tokenizer has such."""
    number = tokenizer.backend_tokenizer.token_to_id(text) if text.startswith(("<", "[")) else None
    return {} if number is None else {text: number}


def _first(tail: str, tokens: dict[str, int]) -> TurnEnd | None:
    places = [(tail.index(token), -len(token), token) for token in tokens if token in tail]
    if not places:
        return None
    at, _, token = min(places)
    return TurnEnd(tokens[token], tail[at + len(token) :])
