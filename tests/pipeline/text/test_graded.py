"""Rows of graded lists: what becomes a pair, with which scores and preferences, and why a response is left out."""

import json
import math

import pytest

from scoreonce.pipeline.text.dataset_columns import match_columns
from scoreonce.pipeline.text.formats import Example, detect
from scoreonce.pipeline.text.graded import read_list
from scoreonce.pipeline.text.pairing import Pairing
from scoreonce.pipeline.text.quarantine import REASONS, RowError

LIST = {"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 3, 2.5]}


def render(messages, add_generation_prompt):
    text = "".join(f"<{message['role']}>{message['content']}|" for message in messages)
    return text + "<assistant>" * add_generation_prompt


def read(row, way="all_pairs", scale=None, **renamed):
    columns = match_columns(list(row), renamed)
    assert detect(columns, list(row), [row]) == "graded"
    return read_list(row, columns, render, Pairing(way), scale)


def test_every_pair_has_its_scores_and_the_source():
    assert read({**LIST, "source": "here"}) == [
        Example("p", "b", "a", 3.0, 1.0, "here"),
        Example("p", "c", "a", 2.5, 1.0, "here"),
        Example("p", "b", "c", 3.0, 2.5, "here"),
    ]


def test_lists_written_as_json_and_renamed_columns():
    row = {"question": "p", "outputs": json.dumps(LIST["responses"]), "ratings": json.dumps(LIST["scores"])}
    assert read(row, "best_worst", prompt="question", responses="outputs", scores="ratings") == read(LIST, "best_worst")


def test_preferences_cover_the_whole_list():
    """Scores 0, 1, 1 and scale log 3: 1/3 and 7/12 (see test_pairing), though the pair has two of the three."""
    [pair] = read({**LIST, "scores": [0, 1, 1]}, "best_worst", scale=math.log(3))
    assert (pair.chosen, pair.rejected) == ("b", "a")
    assert (pair.chosen_preference, pair.rejected_preference) == pytest.approx((7 / 12, 1 / 3))


def test_conversations_are_rendered():
    prompt = [{"role": "user", "content": "2 + 2?"}]
    replies = ["5", [{"role": "assistant", "content": "4"}], [{"role": "assistant", "content": " "}]]
    blank, pair = read({"prompt": prompt, "responses": replies, "scores": [0, 1, 2]})
    assert pair == Example("<user>2 + 2?|<assistant>", "4|", "5|", 1.0, 0.0, rendered=True)
    assert blank.reason == "response_is_blank"


def test_a_system_column_is_the_first_turn():
    [pair] = read({"system": "Add.", "prompt": "2 + 2?", "responses": ["5", "4"], "scores": [0, 1]})
    assert (pair.prompt, pair.chosen, pair.rejected) == ("<system>Add.|<user>2 + 2?|<assistant>", "4|", "5|")


def test_unusable_responses_are_named_and_the_others_paired():
    row = {"prompt": "p", "responses": ["a", " ", "c", "a", "e"], "scores": [2, 9, None, 1, math.nan]}
    found = read(row)
    assert [(problem.reason, problem.detail[:10]) for problem in found[:3]] == [
        ("response_is_blank", "response 2"),
        ("response_has_no_score", "response 3"),
        ("response_has_no_score", "response 5"),
    ]
    assert [problem.reason for problem in found[3:]] == ["sides_are_identical"]  # a with score 2 against a with score 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scores": [1, 2]}, "lists_differ_in_length"),
        ({"scores": [1, 1, 1]}, "no_preference"),
        ({"responses": [], "scores": []}, "no_preference"),
        ({"scores": [None, 1, None]}, "no_preference"),
        ({"scores": [1, "2", 3]}, "wrong_type"),
        ({"responses": ["a", 2, "c"]}, "wrong_type"),
        ({"responses": "not a list"}, "wrong_type"),
        ({"responses": None}, "missing_value"),
        ({"prompt": None}, "missing_value"),
        ({"prompt": "\ud800"}, "invalid_utf8"),
        ({"responses": ["a", "\ud800"], "scores": [1, 2]}, "invalid_utf8"),
    ],
)
@pytest.mark.parametrize("way", ["all_pairs", "rso"])
def test_rows_that_make_no_pair(change, reason, way):
    assert reason in REASONS
    try:
        problems = [found.reason for found in read({**LIST, **change}, way) if isinstance(found, RowError)]
    except RowError as problem:
        problems = [problem.reason]
    assert problems == [reason]
