"""The question to a judge, and what its answer says."""

import json

import pytest

from scoreonce.pipeline.judging.verdicts import DEFAULT_TEMPLATE, Question, preference_in, prompt_text
from scoreonce.schemas.errors import InputError


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[[A]]", 1.0),
        ("Both are fine, but the second is wrong.\n\n[[A]]", 1.0),
        ("[[B]]", 0.0),
        ("My verdict: [[C]].", 0.5),
        ("[[B]] ... so, again: [[B]]", 0.0),
        (" a ", 1.0),
        ("(B).", 0.0),
        ("[[A]] or perhaps [[B]]", None),
        ("A is better", None),
        ("[[D]]", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_and_never_guessed(answer, expected):
    assert preference_in(answer) == expected


def test_the_default_question_shows_all_as_it_is():
    text = Question()("Why {{ x }}?", "one <b>", "the other")
    assert "Why {{ x }}?" in text
    assert text.index("one <b>") < text.index("the other")
    assert "[[C]]" in text
    assert Question().template == DEFAULT_TEMPLATE


@pytest.mark.parametrize("template", ["{{ prompt }} {{ first }}", "{{ prompt", "{{ prompt }}{{ first }}{{ third }}"])
def test_a_template_that_does_not_show_both_is_refused(template):
    with pytest.raises(InputError, match="question cannot be used"):
        Question(template)


def test_a_prompt_is_shown_as_text():
    user = {"role": "user", "content": "Hello"}
    assert prompt_text("<user>Hello", None) == "<user>Hello"
    assert prompt_text("<user>Hello", json.dumps([user])) == "Hello"
    assert prompt_text("", json.dumps([{"role": "system", "content": "Be kind."}, user])) == (
        "system: Be kind.\n\nuser: Hello"
    )
