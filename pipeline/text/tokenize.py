"""Text to token ids, exactly as the model sees them at generation.

The prompt's ids are those of the prompt tokenized alone, with BOS if the tokenizer adds one (`prefix`), without
anything that it would append. The completion's ids are the rest of the ids of prompt and completion tokenized
together. If one token spans the end of the prompt, the model could never have produced it; then the completion is
encoded as a continuation: by the same tokenizer, but without the space that SentencePiece-style tokenizers put
before a text. Every completion ends in exactly one EOS, unless `fit` truncates it.

Text rendered by a chat template already has its special tokens, so none are added, as in
`apply_chat_template`. White space that a template writes after the EOS of a turn is removed: generation stops there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError
from tokenizers import Tokenizer

from scoreonce.pipeline.text.chat import Message, Render
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
class TextEncoder:
    """What encoding needs of a tokenizer."""

    whole: Tokenizer  # text as it is given
    continuation: Tokenizer  # text that follows other text
    prefix: tuple[int, ...]  # what the tokenizer puts before a text: BOS, or nothing
    bos_id: int | None
    eos_id: int
    eos_text: str
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


def text_encoder(tokenizer: PreTrainedTokenizerBase) -> TextEncoder:
    """The encoder of a tokenizer. Raises `InputError` for one without EOS, or without a `tokenizers` backend."""
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
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state |= {"truncation": None, "padding": None}
    prefix = _special_prefix(tokenizer)
    decides = [state, prefix, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.chat_template]
    return TextEncoder(
        whole=Tokenizer.from_str(json.dumps(state)),
        continuation=Tokenizer.from_str(json.dumps(_without_dummy_prefix(state))),
        prefix=prefix,
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        eos_text=str(tokenizer.eos_token),
        digest=hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest(),
    )


def chat_renderer(tokenizer: PreTrainedTokenizerBase) -> Render:
    """Renders messages with the tokenizer's chat template. The first call raises `InputError` if it has none."""

    def render(messages: list[Message], add_generation_prompt: bool) -> str:
        if tokenizer.chat_template is None:
            raise InputError(
                "The data are messages, but the tokenizer has no chat template.",
                found="chat_template is not set",
                where=f"data.tokenizer, {tokenizer.name_or_path}",
                fix="Set data.tokenizer to that of an instruction-tuned model, or provide the data as text.",
            )
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        except (TemplateError, TypeError) as error:
            raise RowError("template_refuses", str(error)) from None
        return str(text)

    return render


def _special_prefix(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The special tokens that the tokenizer adds before a text, found by encoding one."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return tuple(full[:start])


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


def without_eos(text: str, eos_text: str) -> str:
    """A completion without its final EOS tokens, and without white space after the first of them."""
    bare = text.rstrip()
    while bare.endswith(eos_text):
        text = bare.removesuffix(eos_text)
        bare = text.rstrip()
    return text


def strip_eos(example: Example, encoder: TextEncoder) -> Example:
    """The example with `without_eos` completions. Raises `RowError` if one is blank then."""
    chosen = without_eos(example.chosen, encoder.eos_text)
    rejected = None if example.rejected is None else without_eos(example.rejected, encoder.eos_text)
    if not chosen.strip():
        raise RowError("chosen_is_blank", repr(example.chosen))
    if rejected is not None and not rejected.strip():
        raise RowError("rejected_is_blank", repr(example.rejected))
    return replace(example, chosen=chosen, rejected=rejected)


def encode_pairs(encoder: TextEncoder, examples: Sequence[Example]) -> list[EncodedPair | RowError]:
    """Token ids of each example, untruncated, every completion ending in EOS; `RowError` if it cannot be split."""
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
    """The ids, without EOS, of completions, each given with the index of its prompt."""
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
    has_prefix = example.rendered or tuple(prompt[: len(encoder.prefix)]) == encoder.prefix
    return EncodedPair(
        np.array(prompt if has_prefix else [*encoder.prefix, *prompt], np.int32),
        np.array([*chosen.ids, encoder.eos_id], np.int32),
        np.array([] if rejected is None else [*rejected_ids, encoder.eos_id], np.int32),
        boundary_merged=chosen.merged or (rejected is not None and rejected.merged),
    )


def fit(pair: EncodedPair, limits: Limits, encoder: TextEncoder) -> EncodedPair:
    """The pair truncated to the limits: the prompt loses its start except BOS, a completion its end, EOS included.

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
