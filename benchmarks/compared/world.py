"""What both sides read: a model made from a config, a tokenizer, and pairs as text that both tokenise to the same ids.

A token is a word of the text, so that no tokenizer can merge anything across the end of a prompt: each side goes
through its own tokenisation, and what it made is compared by digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from flops import Shape

from compared.profiles import SPECIAL, VOCABULARY, TokenPair

# 12.6 M parameters, most of them in the body.
SHAPE = Shape(width=384, layers=6, heads=6, feed_forward=1_088, vocabulary=VOCABULARY)
PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
LONGEST = 8_192


def write_model(folder: Path, shape: Shape, dtype: str = "float32") -> None:
    """A Llama of this shape with random weights, the same ones every time, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    write_tokenizer(folder, shape.vocabulary)


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A tokenizer of that many words; ids of the special ones come first."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    special = [PAD, BOS, EOS, UNKNOWN]
    words = {word: number for number, word in enumerate([*special, *map(_word, range(SPECIAL, vocabulary))])}
    backend = Tokenizer(WordLevel(words, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNKNOWN
    ).save_pretrained(folder)


def write_pairs(path: Path, pairs: Iterable[TokenPair]) -> None:
    """The pairs as JSONL of prompt, chosen and rejected."""
    with path.open("w") as lines:
        for pair in pairs:
            prompt = " ".join(map(_word, pair.prompt))
            sides = (" " + " ".join(map(_word, side)) for side in (pair.chosen, pair.rejected))
            print(json.dumps(dict(zip(("prompt", "chosen", "rejected"), (prompt, *sides), strict=True))), file=lines)


def digest(rows: Iterable[Sequence[Sequence[int]]]) -> str:
    """Of token ids: for each pair prompt, chosen and rejected, in the order of training."""
    made = hashlib.sha256()
    for row in rows:
        made.update(json.dumps([[int(token) for token in part] for part in row]).encode())
    return made.hexdigest()


def _word(token: int) -> str:
    # Ids of real tokenizers' special tokens, which text may hold all the same, stand for ordinary words.
    return f"w{max(token, SPECIAL)}"
