"""Which response a value prefers, in every coding, and what no coding has."""

import pytest

from scoreonce.pipeline.detection.codings import CODINGS, better, coding_of, counted, label_of, winner
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.schemas.errors import InputError


@pytest.mark.parametrize(
    ("coding", "first", "second"),
    [
        ("0/1", [0, 0.0, 0.2, "0"], [1, 1.0, 0.8, "1"]),
        ("1/0", [1, 0.8, "1"], [0, 0.2, "0"]),
        ("1/2", [1, 1.0, "1"], [2, 2.0, "2"]),
        ("A/B", ["A", "a", " model_a ", "response_1"], ["B", "b", "model_b", "second"]),
        ("signed", [-3, -0.5, "-1"], [2, 0.5, "3"]),
    ],
)
def test_values_that_prefer_a_response(coding, first, second):
    assert [better(value, coding, "label") < 0.5 for value in first] == [True] * len(first)
    assert [better(value, coding, "label") > 0.5 for value in second] == [True] * len(second)


@pytest.mark.parametrize(
    ("coding", "value"),
    [("0/1", 0.5), ("1/0", 0.5), ("1/2", 1.5), ("A/B", "tie"), ("A/B", "tie (bothbad)"), ("signed", 0)],
)
def test_a_tie_goes_to_quarantine(coding, value):
    with pytest.raises(RowError, match="a tie") as caught:
        better(value, coding, "label")
    assert caught.value.reason == "no_preference"


@pytest.mark.parametrize(
    ("coding", "value"),
    [
        ("0/1", 2),
        ("0/1", -1),
        ("0/1", True),
        ("1/0", 3),
        ("1/2", 0),
        ("1/2", 3),
        ("A/B", "x"),
        ("A/B", 1),
        ("signed", "much better"),
        ("signed", float("inf")),
        ("signed", 10**400),
        ("0/1", [1]),
    ],
)
def test_a_value_that_the_coding_does_not_have(coding, value):
    with pytest.raises(RowError, match=coding) as caught:
        better(value, coding, "label")
    assert caught.value.reason == "no_preference"


@pytest.mark.parametrize(
    ("values", "coding"),
    [
        ([0, 1, 1], "0/1"),
        ([0.25, 0.5], "0/1"),
        ([1, 2, 1], "1/2"),
        (["1", "2"], "1/2"),
        (["A", "B", "tie"], "A/B"),
        (["model_a", "model_b"], "A/B"),
        ([-1, 1], "signed"),
        ([-3, 0, 2], "signed"),
    ],
)
def test_the_coding_that_values_can_only_have(values, coding):
    assert coding_of(values, "label") == coding


@pytest.mark.parametrize("values", [[0, 1, 2], [1, 2, 3, 4, 5], [True, False], ["good", "bad"], [10**400, 1]])
def test_values_that_fit_no_coding_are_shown_with_the_codings(values):
    with pytest.raises(InputError) as caught:
        coding_of(values, "label")
    assert str(values[1]) in caught.value.found
    assert all(f'"{name}"' in caught.value.fix for name in CODINGS)


@pytest.mark.parametrize(
    ("flags", "expected"), [([1, 0, 0], 0.0), ([0, 1, 0], 1.0), ([True, False], 0.0), (["0", "1", "0"], 1.0)]
)
def test_the_column_of_the_winner(flags, expected):
    assert winner(flags, ["first", "second", "tie"][: len(flags)]) == expected


@pytest.mark.parametrize(
    ("flags", "why"), [([0, 0, 1], "a tie"), ([0, 0, 0], "not just one"), ([1, 1, 0], "not just one")]
)
def test_columns_without_one_winner(flags, why):
    with pytest.raises(RowError, match=why) as caught:
        winner(flags, ["first", "second", "tie"])
    assert caught.value.reason == "no_preference"


@pytest.mark.parametrize(
    ("value", "good"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        (-1, False),
        (1.0, True),
        ("TRUE", True),
        ("undesirable", False),
    ],
)
def test_labels_of_single_completions(value, good):
    assert label_of(value, "label") is good


@pytest.mark.parametrize("value", [2, 0.5, "maybe", None, [], {}])
def test_a_label_that_says_neither(value):
    with pytest.raises(RowError) as caught:
        label_of(value, "label")
    assert caught.value.reason == "wrong_type"


def test_values_are_counted_from_the_most_frequent():
    assert counted(["b", "a", "b", None]) == "b: 2, a: 1, null: 1"
    assert counted(range(10), most=2) == "0: 1, 1: 1, and 8 other values"
