"""Token ids as at generation: boundary, BOS, EOS, truncation. Ids are worked out by hand on tiny vocabularies."""

import gzip
import json
from itertools import islice

import pytest
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from scoreonce.pipeline.templates.renderer import chat_renderer
from scoreonce.pipeline.templates.turn_end import find_turn_end
from scoreonce.pipeline.text.dataset_columns import match_columns
from scoreonce.pipeline.text.formats import Example, read_row
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.pipeline.text.tokenize import (
    EncodedPair,
    Limits,
    encode_pairs,
    fit,
    strip_ends,
    text_encoder,
)
from scoreonce.schemas.errors import InputError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def wrapped(tokenizer: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"bos_token": "<s>", "eos_token": "</s>", **names})


def byte_level(*, add_prefix_space: bool = False, template: str | None = None) -> PreTrainedTokenizerFast:
    """a 2, b 3, c 4, d 5, Ġ 6, ab 7, bc 8, Ġc 9; b+c merges before a+b."""
    pieces = ["<s>", "</s>", "a", "b", "c", "d", "Ġ", "ab", "bc", "Ġc"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(BPE(vocabulary, [("b", "c"), ("a", "b"), ("Ġ", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    if template is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return wrapped(tokenizer)


def sentence_piece(kind: str) -> PreTrainedTokenizerFast:
    """▁ 3, a 4, b 5, c 6, d 7, ▁a 8, bc 9, ▁c 10; a dummy ▁ before the text, by normaliser or by pre-tokeniser."""
    pieces = ["<unk>", "<s>", "</s>", "▁", "a", "b", "c", "d", "▁a", "bc", "▁c"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(BPE(vocabulary, [("b", "c"), ("▁", "a"), ("▁", "c")], unk_token="<unk>"))
    if kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    elif kind == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.normalizer = normalizers.Prepend("▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return wrapped(tokenizer, unk_token="<unk>")


def words(*, template: str | None = CHATML, bos: bool = False, **names: str) -> PreTrainedTokenizerFast:
    """One token per word or line's end; ChatML's marks are special."""
    pieces = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "user", "assistant", "hi", "yes", "no", "\n"]
    tokenizer = Tokenizer(WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    made = wrapped(tokenizer, unk_token="<unk>", **names)
    made.chat_template = template
    return made


def encode(
    tokenizer: PreTrainedTokenizerFast, prompt: str, chosen: str, rejected: str | None = "d", **fields
) -> EncodedPair:
    encoder = text_encoder(tokenizer)
    pair = encode_pairs(encoder, [strip_ends(Example(prompt, chosen, rejected, **fields), encoder)])[0]
    assert isinstance(pair, EncodedPair)
    return pair


def test_byte_level_split_at_the_boundary():
    """Prompt "ab" is [ab]; "ab c" is [ab, Ġc]: the completion is what the whole adds."""
    pair = encode(byte_level(), "ab", " c")
    assert (pair.prompt_ids.tolist(), pair.chosen_ids.tolist(), pair.boundary_merged) == ([7], [9, 1], False)


def test_byte_level_merge_across_the_boundary():
    """abcd is [a, bc, d], which does not start with [ab]: at generation [ab] goes on with [c, d]."""
    pair = encode(byte_level(), "ab", "cd")
    assert (pair.prompt_ids.tolist(), pair.chosen_ids.tolist()) == ([7], [4, 5, 1])
    assert pair.boundary_merged


def test_a_merge_on_the_rejected_side_alone_is_counted():
    pair = encode(byte_level(), "ab", " c", "c")
    assert (pair.chosen_ids.tolist(), pair.rejected_ids.tolist(), pair.boundary_merged) == ([9, 1], [4, 1], True)


def test_a_tokenizer_that_adds_a_space_adds_none_to_a_completion():
    """With add_prefix_space, "cd" alone would be [Ġc, d]; behind "ab" there is no space. " ab" is [Ġ, ab]."""
    pair = encode(byte_level(add_prefix_space=True), "ab", "cd")
    assert (pair.prompt_ids.tolist(), pair.chosen_ids.tolist(), pair.boundary_merged) == ([6, 7], [4, 5, 1], True)


@pytest.mark.parametrize("kind", ["metaspace", "prepend", "prepend alone"])
def test_sentence_piece_puts_no_dummy_space_before_a_completion(kind):
    """ "▁abcd" is [▁a, bc, d] and the prompt [▁a, b]; encoded by itself the completion would be [▁c, d]."""
    pair = encode(sentence_piece(kind), "ab", "cd")
    assert (pair.prompt_ids.tolist(), pair.chosen_ids.tolist(), pair.boundary_merged) == ([1, 8, 5], [6, 7, 2], True)


@pytest.mark.parametrize("kind", ["metaspace", "prepend"])
def test_sentence_piece_keeps_the_space_of_a_completion_once(kind):
    """ "▁ab▁c" is [▁a, b, ▁c]; encoded by itself " c" would be [▁, ▁c]."""
    pair = encode(sentence_piece(kind), "ab", " c")
    assert (pair.prompt_ids.tolist(), pair.chosen_ids.tolist(), pair.boundary_merged) == ([1, 8, 5], [10, 2], False)


def test_bos_once_where_the_tokenizer_puts_it():
    tokenizer = byte_level(template="<s> $A")
    assert encode(tokenizer, "ab", " c").prompt_ids.tolist() == tokenizer("ab")["input_ids"] == [0, 7]
    assert encode(byte_level(), "ab", " c").prompt_ids.tolist() == byte_level()("ab")["input_ids"] == [7]


def test_bos_that_stands_in_the_text_is_not_added_again():
    assert encode(byte_level(template="<s> $A"), "<s>ab", " c").prompt_ids.tolist() == [0, 7]


def test_eos_that_the_tokenizer_appends_is_not_left_in_the_prompt():
    tokenizer = byte_level(template="<s> $A </s>")
    assert tokenizer("ab")["input_ids"] == [0, 7, 1]
    pair = encode(tokenizer, "ab", " c")
    assert (pair.prompt_ids.tolist(), pair.chosen_ids.tolist()) == ([0, 7], [9, 1])


@pytest.mark.parametrize("ending", ["", "</s>", "</s>\n", "</s></s> \n"])
def test_eos_exactly_once_on_both_sides(ending):
    pair = encode(byte_level(), "ab", " c" + ending, " d" + ending)
    assert (pair.chosen_ids.tolist(), pair.rejected_ids.tolist()) == ([9, 1], [6, 5, 1])


def test_a_completion_of_eos_alone_is_blank():
    with pytest.raises(RowError, match="chosen_is_blank"):
        encode(byte_level(), "ab", "</s>\n")


def test_completion_only_has_no_rejected_ids():
    assert encode(byte_level(), "ab", " c", None).rejected_ids.tolist() == []


def chat_example(tokenizer: PreTrainedTokenizerFast) -> Example:
    row = {"prompt": [{"role": "user", "content": "hi"}], "chosen": "yes", "rejected": "no"}
    return read_row("messages", row, match_columns(list(row), {}), chat_renderer(tokenizer))


def test_a_template_that_ends_the_turn_with_eos_and_a_line_end():
    """The prompt is what apply_chat_template gives at generation; behind <|im_end|> (4) nothing is left."""
    tokenizer = words(eos_token="<|im_end|>")
    encoder = text_encoder(tokenizer)
    [pair] = encode_pairs(encoder, [strip_ends(chat_example(tokenizer), encoder)])
    at_generation = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    assert pair.prompt_ids.tolist() == at_generation["input_ids"] == [3, 5, 10, 7, 4, 10, 3, 6, 10]
    assert (pair.chosen_ids.tolist(), pair.rejected_ids.tolist()) == ([8, 4], [9, 4])


def test_a_template_that_ends_the_turn_with_another_token_than_eos():
    """Generation stops at <|im_end|> (4); </s> (2) is never written after it."""
    tokenizer = words()
    encoder = text_encoder(tokenizer, turn_end=find_turn_end(tokenizer, chat_renderer(tokenizer)))
    [pair] = encode_pairs(encoder, [strip_ends(chat_example(tokenizer), encoder)])
    assert (pair.chosen_ids.tolist(), pair.rejected_ids.tolist()) == ([8, 4], [9, 4])


def test_a_template_that_ends_the_turn_with_no_token_gets_eos_behind_it():
    tokenizer = words(template=CHATML.replace("<|im_end|>", ""))
    encoder = text_encoder(tokenizer, turn_end=find_turn_end(tokenizer, chat_renderer(tokenizer)))
    [pair] = encode_pairs(encoder, [strip_ends(chat_example(tokenizer), encoder)])
    assert pair.chosen_ids.tolist() == [8, 10, 2]


@pytest.mark.parametrize("template", ["{{ bos_token }}" + CHATML, CHATML])
def test_a_rendered_prompt_gets_no_bos_but_the_templates(template):
    tokenizer = words(template=template, bos=True)
    encoder = text_encoder(tokenizer)
    [pair] = encode_pairs(encoder, [chat_example(tokenizer)])
    at_generation = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    assert pair.prompt_ids.tolist() == at_generation["input_ids"]
    assert pair.prompt_ids.tolist().count(1) == template.count("bos_token")


def test_no_chat_template():
    with pytest.raises(InputError, match="no chat template"):
        chat_example(words(template=None))


def test_a_template_that_refuses_the_messages():
    with pytest.raises(RowError, match="users only"):
        chat_example(words(template="{{ raise_exception('users only') }}"))


def test_a_tokenizer_without_eos():
    tokenizer = byte_level()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="end-of-sequence"):
        text_encoder(tokenizer)


def characters(pieces: str, template: str = "$A") -> PreTrainedTokenizerFast:
    """A token for each of the pieces, from 2 on, and none for anything else."""
    vocabulary = {piece: index for index, piece in enumerate(["<s>", "</s>", *pieces])}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0)])
    return wrapped(tokenizer)


def test_a_tokenizer_without_small_letters_has_its_prefix():
    assert text_encoder(characters("ACGT", "<s> $A")).prefix == (0,)


def test_a_tokenizer_that_makes_nothing_of_text():
    with pytest.raises(InputError, match="makes no tokens of plain text") as raised:
        text_encoder(characters("?!"))
    assert "'1' becomes []" in str(raised.value)
    with pytest.raises(InputError, match="makes no tokens of plain text"):
        text_encoder(characters("?!", "<s> $A"))


def test_the_digest_follows_what_decides_the_ids():
    digests = [
        text_encoder(t).digest
        for t in (
            byte_level(),
            byte_level(),
            byte_level(template="<s> $A"),
            byte_level(add_prefix_space=True),
            words(),
            words(eos_token="<|im_end|>"),
            words(template=CHATML + " "),
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 6


def test_truncation_set_in_the_tokenizer_is_not_applied():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.enable_truncation(1)
    assert encode(tokenizer, "ab", " c c c").chosen_ids.tolist() == [9, 9, 9, 1]


def test_a_split_that_does_not_decode_to_the_text_is_refused():
    """The normaliser strips a text's leading white space, so " d" behind "ab" would come out as "abd"."""
    tokenizer = byte_level()
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence(
        [normalizers.Strip(left=True, right=False), normalizers.Replace("b d", "bc")]
    )
    encoder = text_encoder(tokenizer)
    [pair] = encode_pairs(encoder, [Example("ab", " d", "c")])
    assert isinstance(pair, RowError)
    assert pair.reason == "boundary_cannot_be_split"


def fitted(prompt: list[int], chosen: list[int], rejected: list[int], *, bos: bool = True, **limits) -> EncodedPair:
    import numpy as np

    encoder = text_encoder(byte_level(template="<s> $A" if bos else None))
    return fit(EncodedPair(*(np.array(ids, np.int32) for ids in (prompt, chosen, rejected))), Limits(**limits), encoder)


def test_a_pair_that_fits_is_left_alone():
    pair = fitted([0, 2, 3], [4, 1], [5, 5, 1], max_length=6)
    assert (pair.chosen_ids.tolist(), pair.rejected_ids.tolist()) == ([4, 1], [5, 5, 1])
    assert (pair.prompt_truncated, pair.chosen_truncated, pair.rejected_truncated) == (False, False, False)


def test_a_completion_loses_its_end_and_eos():
    pair = fitted([0, 2, 3], [4, 1], [5, 5, 1], max_length=5)
    assert (pair.chosen_ids.tolist(), pair.rejected_ids.tolist()) == ([4, 1], [5, 5])
    assert (pair.chosen_truncated, pair.rejected_truncated) == (False, True)


def test_a_prompt_loses_its_start_but_not_bos():
    pair = fitted([0, 2, 3, 4], [5, 1], [4, 1], max_length=9, max_prompt_length=3)
    assert (pair.prompt_ids.tolist(), pair.prompt_truncated) == ([0, 3, 4], True)
    assert fitted([0, 2, 3], [5], [4], max_length=9, max_prompt_length=1).prompt_ids.tolist() == [0]
    assert fitted([2, 3, 4], [5], [4], max_length=9, max_prompt_length=2).prompt_ids.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("prompt", "chosen", "limits", "reason"),
    [
        ([], [4, 1], {"max_length": 5}, "prompt_has_no_tokens"),
        ([2, 3, 4, 5, 2], [4, 1], {"max_length": 5}, "prompt_fills_max_length"),
        ([2, 3, 4], [5, 5, 4, 1], {"max_length": 5}, "sides_are_identical"),
        ([2, 3, 4], [4, 1], {"max_length": 5, "truncation": "drop"}, "pair_over_max_length"),
        (
            [2, 3],
            [4, 1],
            {"max_length": 9, "max_prompt_length": 1, "truncation": "drop"},
            "prompt_over_max_prompt_length",
        ),
    ],
)
def test_reasons_of_length(prompt, chosen, limits, reason):
    with pytest.raises(RowError) as caught:
        fitted(prompt, chosen, [5, 5, 1], **limits)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "name", ["stories260K-hf", "hh-llama-2.8M", "gpt2-tokenizer.json", "gptneox-pythia-tokenizer.json"]
)
@pytest.mark.parametrize("moved", [0, 1], ids=["as they stand", "space moved into the prompt"])
def test_real_tokenizers_on_real_pairs(shared, name, moved):
    """The prompt's ids are the tokenizer's own, and all the ids together decode to the text."""
    if name.endswith(".json"):
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(shared / "data/tokenizers" / name), eos_token="<|endoftext|>"
        )
    else:
        tokenizer = AutoTokenizer.from_pretrained(shared / "data/models" / name)
    with gzip.open(shared / "data/prefs/hh_rlhf_test.jsonl.gz") as lines:
        rows = [json.loads(line) for line in islice(lines, 150)]
    # A space at the prompt's end merges with the word that follows in almost every pair.
    texts = [(row["prompt"] + " " * moved, row["chosen"][moved:], row["rejected"][moved:]) for row in rows]
    pairs = encode_pairs(text_encoder(tokenizer), [Example(*text) for text in texts])
    assert sum(pair.boundary_merged for pair in pairs) >= 100 * moved
    specials = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    for (prompt, chosen, rejected), pair in zip(texts, pairs, strict=True):
        own = tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
        assert pair.prompt_ids.tolist() == own
        for side, ids in ((chosen, pair.chosen_ids), (rejected, pair.rejected_ids)):
            assert ids[-1] == tokenizer.eos_token_id
            assert not specials & {*ids[:-1].tolist(), *pair.prompt_ids[1:].tolist()}
            text = tokenizer.decode(
                [*pair.prompt_ids, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            assert text == prompt + side
