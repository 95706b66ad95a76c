"""A tokenizer is compared with the rules of its own file."""

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from scoreonce.stages.models.tokenizers import load_tokenizer, other_rules

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def rules(*, digits: bool) -> Tokenizer:
    """A token per byte, and one for "20", which `digits` keeps apart."""
    pieces = ["</s>", *BYTES, "20"]
    backend = Tokenizer(BPE({piece: number for number, piece in enumerate(pieces)}, [("2", "0")]))
    steps = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    return backend


@pytest.fixture
def folder(tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=rules(digits=False), eos_token="</s>").save_pretrained(tmp_path)
    return tmp_path


def test_a_tokenizer_that_follows_its_file(folder):
    assert other_rules(load_tokenizer(str(folder))) is None


def test_limits_and_padding_in_the_file_are_no_rules_of_tokens(folder):
    tokenizer, stated = load_tokenizer(str(folder)), Tokenizer.from_file(str(folder / "tokenizer.json"))
    stated.enable_truncation(2)
    stated.enable_padding(length=64)
    stated.save(str(folder / "tokenizer.json"))
    assert other_rules(tokenizer) is None


def test_a_tokenizer_with_other_rules_than_its_file(folder):
    """As transformers loads one by the type of a model: here what is loaded keeps digits apart."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rules(digits=True), eos_token="</s>")
    tokenizer.name_or_path = str(folder)
    said = other_rules(tokenizer)
    name = type(tokenizer).__name__
    assert f"as {name}, which transformers makes of it, 'In 2023, 650841823 people' is ['I', 'n'," in said
    loaded, stated = said.split("tokenizer.json it is")
    assert "'Ġ', '2', '0', '2', '3'" in loaded
    assert "'Ġ', '20', '2', '3'" in stated


def test_a_tokenizer_without_a_file_is_not_compared(tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rules(digits=True), eos_token="</s>")
    tokenizer.name_or_path = str(tmp_path)
    assert other_rules(tokenizer) is None
