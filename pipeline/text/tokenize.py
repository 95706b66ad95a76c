"""Text to token ids, exactly as the model sees them at generation.

The prompt's ids are those of the prompt tokenized alone, with BOS if the tokenizer adds one (`prefix`), without
anything that it would append. The completion's ids are the rest of the ids of prompt and completion tokenized
together. If one token spans the end of the prompt, the model could never have produced it; then the completion is
encoded as a continuation: by the same tokenizer, but without the space that SentencePiece-style tokenizers put
before a text.

Every completion ends in exactly one end token, unless `fit` truncates it: the one that its text ends in, if it is EOS,
another end token of the model (`generation_config.eos_token_id`) or the token by which the chat template ends a turn;
otherwise that of the template for what it rendered, and EOS for plain text. What follows the end token is removed:
generation stops there.

Text rendered by a chat template already has its special tokens, so none are added, as in `apply_chat_template`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from scoreonce.pipeline.text.formats import Example
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.schemas.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = npt.NDArray[np.int32]
NO_DUMMY_PREFIX: dict[str, dict[str, Any]] = {
    "Metaspace": {"prepend_scheme": "never"},
    "ByteLevel": {"add_prefix_space": False},
}


@dataclass(frozen=True)
class TurnEnd:
    """How the chat template ends an assistant's turn: a token, and the text that it writes after it."""

    token_id: int
    after: str = ""


@dataclass(frozen=True)
class TextEncoder:
    """What encoding needs of a tokenizer."""

    whole: Tokenizer  # text as it is given
    continuation: Tokenizer  # text that follows other text
    prefix: tuple[int, ...]  # what the tokenizer puts before a text: BOS, or nothing
    bos_id: int | None
    eos_id: int
    ends: Mapping[str, int]  # the tokens that end a completion, by their text, EOS among them
    turn_end: TurnEnd | None  # None: the template, if there is one, ends a turn with no token
    digest: str  # of everything that determines the ids


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a pair, each array `(tokens,)` int32. `rejected_ids` is empty in completion-only data."""

    prompt_ids: Ids
    chosen_ids: Ids
    rejected_ids: Ids
    boundary_merged: bool = False
    prompt_truncated: bool = False
    chosen_truncated: bool = False
    rejected_truncated: bool = False


@dataclass(frozen=True)
class Limits:
    """Maximum lengths in tokens, and what to do beyond them."""

    max_length: int
    max_prompt_length: int | None = None
    truncation: Literal["completion", "drop"] = "completion"


def text_encoder(
    tokenizer: PreTrainedTokenizerBase,
    *,
    turn_end: TurnEnd | None = None,
    end_ids: Sequence[int] = (),
    template: object = None,
) -> TextEncoder:
    """The encoder of a tokenizer. `end_ids` are the model's end tokens besides EOS.

    `template` is what decides the text of conversations besides the tokenizer, for the digest. Raises `InputError` for
    a tokenizer without EOS, or without a `tokenizers` backend.
    """
    where = f"data.tokenizer, {tokenizer.name_or_path}"
    if not tokenizer.is_fast:
        raise InputError(
            "The tokenizer is not one of the `tokenizers` library.",
            found=type(tokenizer).__name__,
            where=where,
            fix="Convert it to a folder with tokenizer.json, and set data.tokenizer to that.",
        )
    if tokenizer.eos_token_id is None:
        raise InputError(
            "The tokenizer has no end-of-sequence token.",
            found="eos_token is not set",
            where=where,
            fix="Set eos_token in its tokenizer_config.json, or set data.tokenizer to another.",
        )
    state = rules_of(tokenizer)
    prefix = _special_prefix(tokenizer)
    ends = {tokenizer.eos_token_id, *end_ids, *([] if turn_end is None else [turn_end.token_id])}
    decides = [state, prefix, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.chat_template]
    # What most tokenizers do not have is left out, so that it changes no digest of theirs.
    decides += [part for part in (template, sorted(ends - {tokenizer.eos_token_id})) if part]
    return TextEncoder(
        whole=Tokenizer.from_str(json.dumps(state)),
        continuation=Tokenizer.from_str(json.dumps(_without_dummy_prefix(state))),
        prefix=prefix,
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        ends=_texts_of(tokenizer, ends),
        turn_end=turn_end,
        digest=hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest(),
    )


def rules_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What decides the ids of a text, as JSON: the `tokenizers` backend, which it has to have, without limits."""
    return {**json.loads(tokenizer.backend_tokenizer.to_str()), "truncation": None, "padding": None}


def _texts_of(tokenizer: PreTrainedTokenizerBase, ids: Collection[int]) -> dict[str, int]:
    """The text of each token, the longest first, so that none is taken for the end of another."""
    texts = {str(tokenizer.convert_ids_to_tokens(number)): number for number in ids if number < len(tokenizer)}
    return dict(sorted(texts.items(), key=lambda item: (-len(item[0]), item)))


def _special_prefix(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The special tokens that the tokenizer adds before a text, found by encoding one.

    Raises `InputError` for a tokenizer that makes nothing of it.
    """
    for text in ("a", "A", "1"):  # a vocabulary may lack one of them, as that of a tokenizer for proteins does
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        full = tokenizer(text, add_special_tokens=True)["input_ids"]
        starts = [i for i in range(len(full)) if bare and full[i : i + len(bare)] == bare]
        if starts:
            return tuple(full[: starts[0]])
    raise InputError(
        "The tokenizer makes no tokens of plain text.",
        found=f"{text!r} becomes {bare}, with its special tokens {full}",
        where=f"data.tokenizer, {tokenizer.name_or_path}, loaded as {type(tokenizer).__name__}",
        fix="Set data.tokenizer to a folder with the tokenizer's files alone: beside a config.json, transformers may "
        "load it by the rules of that model's own tokenizer.",
    )


def _without_dummy_prefix(part: Any) -> Any:
    """A tokenizer's JSON without the normalizer and pre-tokenizer steps that put a space before the text."""
    if isinstance(part, list):
        return [
            _without_dummy_prefix(item)
            for item in part
            if not (isinstance(item, dict) and item.get("type") == "Prepend")
        ]
    if not isinstance(part, dict):
        return part
    silenced = NO_DUMMY_PREFIX.get(part.get("type", ""), {})
    described = {
        key: value if key in ("model", "added_tokens", "decoder") else _without_dummy_prefix(value)
        for key, value in part.items()
    } | silenced
    if isinstance(described.get("normalizer"), dict) and described["normalizer"]["type"] == "Prepend":
        described["normalizer"] = None
    return described


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    # A completion of a graded list is in several pairs: encode each text once.
    distinct = list(dict.fromkeys(texts))
    encodings = tokenizer.encode_batch_fast(distinct, add_special_tokens=False)
    ids = {text: encoding.ids for text, encoding in zip(distinct, encodings, strict=True)}
    return [ids[text] for text in texts]


def split_end(text: str, ends: Mapping[str, int]) -> tuple[str, int | None]:
    """A completion without the end tokens that it ends in and the white space after them, and the id of the first.

    The id is None where it ends in none.
    """
    end, bare = None, text.rstrip()
    while found := next((token for token in ends if bare.endswith(token)), None):
        text, end = bare.removesuffix(found), ends[found]
        bare = text.rstrip()
    return text, end


def strip_ends(example: Example, encoder: TextEncoder) -> Example:
    """The example with completions without end tokens, and their ids. Raises `RowError` if a side is blank then."""
    (chosen, chosen_end), (rejected, rejected_end) = (
        ("", None) if side is None else _without_end(side, example.rendered, encoder)
        for side in (example.chosen, example.rejected)
    )
    if not chosen.strip():
        raise RowError("chosen_is_blank", repr(example.chosen))
    if example.rejected is None:
        return replace(example, chosen=chosen, ends=(chosen_end, None))
    if not rejected.strip():
        raise RowError("rejected_is_blank", repr(example.rejected))
    return replace(example, chosen=chosen, rejected=rejected, ends=(chosen_end, rejected_end))


def _without_end(text: str, rendered: bool, encoder: TextEncoder) -> tuple[str, int | None]:
    turn = encoder.turn_end if rendered else None
    bare, end = split_end(text.removesuffix(turn.after) if turn else text, encoder.ends)
    return bare, end if end is not None or turn is None else turn.token_id


def encode_prompts(encoder: TextEncoder, prompts: Sequence[tuple[str, bool]], limit: int | None = None) -> list[Ids]:
    """Token ids of prompts alone, the same that they have in pairs; of those over `limit` tokens the start is cut.

    Each is a text, and whether a chat template wrote it.
    """
    ids = _ids(encoder.whole, [text for text, _ in prompts])
    whole = [_with_prefix(encoder, each, rendered) for each, (_, rendered) in zip(ids, prompts, strict=True)]
    return whole if limit is None else [_last(each, limit, encoder) for each in whole]


def _with_prefix(encoder: TextEncoder, prompt: list[int], rendered: bool) -> Ids:
    has_prefix = rendered or tuple(prompt[: len(encoder.prefix)]) == encoder.prefix
    return np.array(prompt if has_prefix else [*encoder.prefix, *prompt], np.int32)


def encode_pairs(encoder: TextEncoder, examples: Sequence[Example]) -> list[EncodedPair | RowError]:
    """Token ids of each example, untruncated, every completion with its end token; `RowError` if it cannot be split."""
    prompts = _ids(encoder.whole, [example.prompt for example in examples])
    chosen = [(index, example.chosen) for index, example in enumerate(examples)]
    rejected = [(index, example.rejected) for index, example in enumerate(examples) if example.rejected is not None]
    completions = _completions(encoder, examples, prompts, [*chosen, *rejected])
    of_rejected = {index: found for (index, _), found in zip(rejected, completions[len(chosen) :], strict=True)}
    return [
        _assemble(encoder, example, prompts[index], completions[index], of_rejected.get(index))
        for index, example in enumerate(examples)
    ]


@dataclass(frozen=True)
class _Completion:
    ids: list[int] | None  # None: cannot be split from the prompt
    merged: bool


def _completions(
    encoder: TextEncoder, examples: Sequence[Example], prompts: list[list[int]], sides: list[tuple[int, str]]
) -> list[_Completion]:
    """The ids, without end token, of completions, each given with the index of its prompt."""
    wholes = _ids(encoder.whole, [examples[index].prompt + side for index, side in sides])
    found: dict[int, _Completion] = {}
    for at, (whole, (index, _)) in enumerate(zip(wholes, sides, strict=True)):
        end = len(prompts[index])
        if whole[:end] == prompts[index]:
            found[at] = _Completion(whole[end:], merged=False)
    merged = [at for at in range(len(sides)) if at not in found]
    continued = _ids(encoder.continuation, [sides[at][1] for at in merged])
    split = _texts(encoder, [prompts[sides[at][0]] + ids for at, ids in zip(merged, continued, strict=True)])
    unsplit = _texts(encoder, [wholes[at] for at in merged])
    for at, ids, *texts in zip(merged, continued, split, unsplit, strict=True):
        index, side = sides[at]
        faithful = texts[0] in (texts[1], examples[index].prompt + side)
        found[at] = _Completion(ids if faithful else None, merged=True)
    return [found[at] for at in range(len(sides))]


def _texts(encoder: TextEncoder, ids: list[list[int]]) -> list[str]:
    texts: list[str] = encoder.whole.decode_batch(ids, skip_special_tokens=False)
    return texts


def _assemble(
    encoder: TextEncoder, example: Example, prompt: list[int], chosen: _Completion, rejected: _Completion | None
) -> EncodedPair | RowError:
    rejected_ids = [] if rejected is None else rejected.ids
    if chosen.ids is None or rejected_ids is None:
        return RowError("boundary_cannot_be_split", f"the prompt ends in {example.prompt[-20:]!r}")
    chosen_end, rejected_end = (encoder.eos_id if end is None else end for end in example.ends)
    return EncodedPair(
        _with_prefix(encoder, prompt, example.rendered),
        np.array([*chosen.ids, chosen_end], np.int32),
        np.array([] if rejected is None else [*rejected_ids, rejected_end], np.int32),
        boundary_merged=chosen.merged or (rejected is not None and rejected.merged),
    )


def fit(pair: EncodedPair, limits: Limits, encoder: TextEncoder) -> EncodedPair:
    """The pair truncated to the limits: the prompt loses its start except BOS, a completion its end.

    Raises `RowError` if no completion token would be left, if the sides become the same, and for anything too long
    under `truncation = "drop"`.
    """
    prompt_len = len(pair.prompt_ids)
    if prompt_len == 0:
        raise RowError("prompt_has_no_tokens", "the prompt is empty")
    prompt_limit = limits.max_prompt_length or prompt_len
    if prompt_len > prompt_limit and limits.truncation == "drop":
        raise RowError("prompt_over_max_prompt_length", f"{prompt_len} tokens, max_prompt_length is {prompt_limit}")
    room = limits.max_length - min(prompt_len, prompt_limit)
    if room < 1:
        raise RowError(
            "prompt_fills_max_length",
            f"{min(prompt_len, prompt_limit)} prompt tokens, max_length is {limits.max_length}",
        )
    longest = max(len(pair.chosen_ids), len(pair.rejected_ids))
    if longest > room and limits.truncation == "drop":
        raise RowError("pair_over_max_length", f"{prompt_len} + {longest} tokens, max_length is {limits.max_length}")
    chosen, rejected = pair.chosen_ids[:room], pair.rejected_ids[:room]
    if np.array_equal(chosen, rejected):
        raise RowError("sides_are_identical", "the same tokens" + f" in the first {room}" * (longest > room))
    return replace(
        pair,
        prompt_ids=_last(pair.prompt_ids, prompt_limit, encoder),
        chosen_ids=chosen,
        rejected_ids=rejected,
        prompt_truncated=prompt_len > prompt_limit,
        chosen_truncated=len(pair.chosen_ids) > room,
        rejected_truncated=len(pair.rejected_ids) > room,
    )


def _last(ids: Ids, limit: int, encoder: TextEncoder) -> Ids:
    """The last tokens of a prompt, with BOS kept at the start."""
    if len(ids) <= limit:
        return ids
    starts = 1 if ids[0] == encoder.bos_id else 0
    kept = min(starts, limit)
    return np.concatenate([ids[:kept], ids[len(ids) - (limit - kept) :]])
