"""Rendering as `apply_chat_template` does, and what a template can do wrong."""

from contextlib import contextmanager

import pytest
from chat_tokenizers import CHATML, R1, TOOLS, chat_tokenizer

from scoreonce.pipeline.templates.renderer import ENDLESS_ROWS, Template, chat_renderer
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.schemas.errors import InputError

USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "function", "function": {"name": "weather", "parameters": {"default": None, "text": "<b>&"}}}


def test_tools_are_rendered_as_transformers_does():
    tokenizer = chat_tokenizer(TOOLS)
    expected = tokenizer.apply_chat_template([USER], tools=[SCHEMA], add_generation_prompt=True, tokenize=False)
    assert '"text": "<b>&"' in expected
    assert chat_renderer(tokenizer)([USER], True, [SCHEMA]) == expected


def test_another_template_and_its_variables():
    tokenizer = chat_tokenizer(CHATML)
    assert chat_renderer(tokenizer, Template("{{ messages[0].content }}!"))([USER], False) == "hi!"
    closed = chat_renderer(tokenizer, Template(R1, {"thinking": False}))([USER], True)
    assert closed == "<s><|User|>hi<|Assistant|>"


@pytest.mark.parametrize("name", ["thinkng", "tools", "tokenize"])
def test_a_variable_that_the_template_does_not_read(name):
    with pytest.raises(InputError, match=f"no variable '{name}'") as caught:
        chat_renderer(chat_tokenizer(R1), Template(variables={name: False}))
    assert "Did you mean 'thinking'?" in caught.value.found or name != "thinkng"


@pytest.mark.parametrize(
    ("template", "detail"),
    [
        ("{{ raise_exception('users only') }}", "users only"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ 9 ** 9 ** 9 ** 9 }}", "computes a power"),
        ("{% if (9)**messages|length %}{% endif %}", "computes a power"),
        ("{{ messages.no.such }}", "has no attribute 'no'"),
        ("{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__() }}", "unsafe"),
    ],
)
def test_whatever_a_template_raises_is_the_rows_reason(template, detail):
    with pytest.raises(RowError, match=detail) as caught:
        chat_renderer(chat_tokenizer(template))([USER], True)
    assert caught.value.reason == "template_refuses"


def test_asterisks_that_are_no_power():
    template = "**Be kind.** {{ '**' ~ dict(**{'a': 'b'}).a }}"
    assert chat_renderer(chat_tokenizer(template))([USER], True) == "**Be kind.** **b"


def test_a_template_that_is_no_jinja():
    with pytest.raises(InputError, match="not valid Jinja") as caught:
        chat_renderer(chat_tokenizer("\n{% if %}"))([USER], True)
    assert caught.value.found.startswith("line 2: ")


def test_no_template():
    with pytest.raises(InputError, match="no chat template"):
        chat_renderer(chat_tokenizer(None))([USER], True)


def test_a_template_that_exceeds_its_time_again_and_again_is_refused():
    @contextmanager
    def expired():
        raise TimeoutError("not finished after 2 s")
        yield

    render = chat_renderer(chat_tokenizer(CHATML), limit=expired)
    for _ in range(ENDLESS_ROWS):
        with pytest.raises(RowError, match="not finished after 2 s"):
            render([USER], True)
    with pytest.raises(InputError, match="does not end"):
        render([USER], True)
