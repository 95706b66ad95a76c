"""What is put right in a row before its format is read: messages written as text, and prompts that are repeated."""

import json

import pytest
from chat_tokenizers import CHATML, chat_tokenizer

from scoreonce.pipeline.templates.renderer import chat_renderer
from scoreonce.pipeline.templates.turn_end import find_turn_end
from scoreonce.pipeline.text.dataset_columns import match_columns
from scoreonce.pipeline.text.rows_to_pairs import PreparationSettings, prepare_rows, with_messages
from scoreonce.pipeline.text.tokenize import Limits, text_encoder

USER = {"role": "user", "content": "Name a fruit."}
YES = {"role": "assistant", "content": "An apple."}


@pytest.mark.parametrize("role", ["prompt", "chosen", "rejected", "completion", "messages", "response_1"])
def test_messages_written_as_text_in_any_column(role):
    row = {role: json.dumps([USER, YES]), "source": json.dumps([USER])}
    columns = match_columns(list(row), {})
    assert with_messages(row, columns) == {role: [USER, YES], "source": json.dumps([USER])}
    plain = {role: "[1, 2]", "source": "x"}
    assert with_messages(plain, columns) is plain


def test_messages_written_as_text_in_a_list_of_responses():
    columns = match_columns(["responses"], {})
    assert with_messages({"responses": [json.dumps([YES]), "b", None]}, columns) == {"responses": [[YES], "b", None]}


@pytest.mark.parametrize(
    ("form", "row", "sides"),
    [
        ("pairs", {"chosen": "Name a fruit. Apple", "rejected": "No"}, (" Apple", "No")),
        ("completion", {"completion": "Name a fruit. Apple"}, (" Apple", None)),
        ("messages", {"system": "Be kind.", "chosen": "Name a fruit. Apple", "rejected": "No"}, ("Apple", "No")),
        ("labelled", {"response_1": "Name a fruit. No", "response_2": "Apple", "preference": 1}, ("Apple", " No")),
        ("graded", {"responses": ["Name a fruit. No", "Name a fruit. Apple"], "scores": [0, 1]}, (" Apple", " No")),
    ],
)
def test_the_prompt_is_cut_off_in_the_columns_that_repeat_it(form, row, sides):
    row = {"prompt": "Name a fruit.", **row}
    tokenizer = chat_tokenizer(CHATML)
    roles = {"chosen", "completion", "response_1", "responses"} & row.keys()
    recipe = PreparationSettings(
        form,
        match_columns(list(row), {}),
        render := chat_renderer(tokenizer),
        text_encoder(tokenizer, turn_end=find_turn_end(tokenizer, render)),
        Limits(100),
        repeating=frozenset(roles),
    )
    [pair], refused = prepare_rows([row], 0, recipe)
    assert not refused
    assert (pair.text.chosen, pair.text.rejected) == sides
