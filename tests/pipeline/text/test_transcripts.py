"""Completions that repeat their prompt."""

import pytest

from scoreonce.pipeline.text.transcripts import after_prompt, repeats_prompt


@pytest.mark.parametrize(
    ("prompt", "completion", "rest"),
    [
        ("Name a fruit.", "Name a fruit. An apple.", " An apple."),
        ("Name a fruit.\n", "Name a fruit.\nAn apple.", "An apple."),
        ("Name a fruit.\n", "  Name a fruit. An apple.", " An apple."),
        ("Name a fruit.", "An apple.", None),
        ("Name a fruit.", "Name a fruit.", None),
        ("Name a fruit.", "Name a fruit. \n", None),
        ("Name a red", "Name a reddish apple.", None),
        ("Once", "Once upon a time", None),
        ("", "An apple.", None),
    ],
)
def test_a_completion_after_its_prompt(prompt, completion, rest):
    assert after_prompt(prompt, completion) == rest


def test_a_column_repeats_the_prompt_if_most_rows_do():
    repeated, other = ("a b?", "a b? c"), ("a b?", "c")
    assert repeats_prompt([repeated, repeated, other])
    assert not repeats_prompt([repeated, other])
    assert not repeats_prompt([])
