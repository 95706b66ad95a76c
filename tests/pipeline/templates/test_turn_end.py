"""By which token each family of templates ends a turn. EOS is `</s>` in all of them."""

import pytest
from chat_tokenizers import CHATML, LLAMA_3, MISTRAL, PHI_3, R1, ZEPHYR, chat_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from scoreonce.pipeline.templates.renderer import chat_renderer
from scoreonce.pipeline.templates.turn_end import find_turn_end


@pytest.mark.parametrize(
    ("template", "token", "after"),
    [
        (CHATML, "<|im_end|>", "\n"),
        (LLAMA_3, "<|eot_id|>", ""),
        (MISTRAL, "</s>", ""),
        (ZEPHYR, "</s>", "\n"),
        (PHI_3, "<|end|>", "\n</s>"),
        (R1, "</s>", ""),
    ],
)
def test_the_first_control_token_after_an_answer(template, token, after):
    tokenizer = chat_tokenizer(template)
    found = find_turn_end(tokenizer, chat_renderer(tokenizer))
    assert found is not None
    assert (found.token_id, found.after) == (tokenizer.convert_tokens_to_ids(token), after)


@pytest.mark.parametrize(
    "template",
    [None, "{{ messages[-1].content }}\n", "no content", "{{ raise_exception('no') }}", "{% if %}"],
)
def test_templates_that_end_a_turn_with_no_token(template):
    tokenizer = chat_tokenizer(template)
    assert find_turn_end(tokenizer, chat_renderer(tokenizer)) is None


def test_special_tokens_come_before_others_that_were_added():
    tokenizer = chat_tokenizer("{{ messages[-1].content }}</answer><|im_end|>")
    tokenizer.add_tokens(["</answer>"])
    found = find_turn_end(tokenizer, chat_renderer(tokenizer))
    assert found is not None
    assert found.token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.chat_template = "{{ messages[-1].content }}</answer>"
    found = find_turn_end(tokenizer, chat_renderer(tokenizer))
    assert found is not None
    assert found.token_id == tokenizer.convert_tokens_to_ids("</answer>")


def test_an_ordinary_token_that_is_spelled_as_control_tokens_are():
    backend = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1, "<end>": 2, "end": 3}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    for text, token_id in (("<end>", 2), ("end", None)):
        tokenizer.chat_template = "{{ messages[-1].content }} " + text + "\n"
        found = find_turn_end(tokenizer, chat_renderer(tokenizer))
        assert (found and found.token_id) == token_id
