"""Token ids of completions as text."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from transformers import PreTrainedTokenizerBase


def completion_texts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> pl.Series:
    """`(completions,)` what each adds to the text of its prompt, without special tokens.

    Decoded alone, a completion would lose the space at its beginning with tokenizers that put one before a text.
    """
    wholes = _decoded(tokenizer, [[*prompt, *ids] for prompt, ids in zip(prompts, completions, strict=True)])
    starts = _decoded(tokenizer, prompts)
    alone = _decoded(tokenizer, completions)
    texts = [
        whole[len(start) :] if whole.startswith(start) else text
        for whole, start, text in zip(wholes, starts, alone, strict=True)
    ]
    return pl.Series("completion", texts, pl.String)


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]) -> list[str]:
    # One tokenizer call for all; a prompt that is answered several times is decoded as often, which is quick.
    texts: list[str] = tokenizer.batch_decode(
        [list(each) for each in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts
