"""Pairs on a terminal."""

import numpy as np
from chat_tokenizers import CHATML, chat_tokenizer
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from scoreonce.pipeline.templates.preview import LONGEST, PairText, decoded, preview_lines, visible
from scoreonce.pipeline.text.tokenize import text_encoder


def test_a_pair_shows_special_tokens_line_ends_and_where_each_side_begins():
    pair = PairText("<|im_start|>user\nhi<|im_end|>\n", "yes<|im_end|>", "no</s>")
    assert list(preview_lines(1, pair)) == [
        "pair 1",
        "  prompt   | <|im_start|>user\\n",
        "           | hi<|im_end|>\\n",
        "  chosen   | yes<|im_end|>",
        "  rejected | no</s>",
    ]
    assert list(preview_lines(2, PairText("p", " c", None))) == ["pair 2", "  prompt   | p", "  chosen   |  c"]


def test_what_a_terminal_would_obey_is_escaped():
    assert visible("a\x1b[2J\rb\x00\u202ec\u2028d\ud800 é漢\t") == ["a\\x1b[2J\\rb\\x00\\u202ec\\u2028d\\ud800 é漢\\t"]
    assert visible("") == [""]


def test_a_long_text_shows_its_start_and_its_end():
    text = "a" + "b" * LONGEST + "\nc"
    assert visible(text) == [
        "a" + "b" * (LONGEST // 2 - 1),
        "... 3 characters ...",
        "b" * (LONGEST // 2 - 2) + "\\n",
        "c",
    ]


def test_ids_are_decoded_with_special_tokens_and_an_absent_side_is_none():
    tokenizer = chat_tokenizer(CHATML)
    prompt, side, absent = (
        np.array(tokenizer(text)["input_ids"], np.int32) for text in ("<|im_start|>hé", "!<|im_end|>", "")
    )
    encoder = text_encoder(tokenizer)
    assert decoded(encoder, prompt, side, absent) == PairText("<|im_start|>hé", "!<|im_end|>", None)
    bad = decoded(encoder, prompt, absent, side)
    assert list(preview_lines(1, bad)) == ["pair 1", "  prompt   | <|im_start|>hé", "  rejected | !<|im_end|>"]


def test_a_completion_keeps_the_space_that_it_begins_with():
    """▁a decodes to "a" at the start of a text and to " a" behind another token."""
    backend = Tokenizer(BPE({"<unk>": 0, "</s>": 1, "▁": 2, "a": 3, "▁a": 4}, [("▁", "a")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    encoder = text_encoder(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    sides = (np.array(ids, np.int32) for ids in ([4], [4, 1], [3, 1]))
    assert decoded(encoder, *sides) == PairText("a", " a</s>", "a</s>")
