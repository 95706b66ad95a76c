"""Words, n-grams, sets of hashes and their Jaccard index."""

import numpy as np
import polars as pl
import pytest

from scoreonce.pipeline.audit.measures.ragged import Ragged, concatenate, distinct_counts, jaccard, numbered
from scoreonce.pipeline.audit.measures.words import keys, ngrams, words


def keyed(*texts: str | None) -> list[int]:
    series = pl.Series("text", texts, dtype=pl.String)
    return keys(series, words(series)).tolist()


def sets(*lists: list[int]) -> Ragged:
    # Hashes fill all 64 bits; small numbers would differ only in the lower ones.
    spread = np.random.default_rng(0).integers(0, 2**63, 100, dtype=np.uint64)
    flat = np.array([spread[number] for each in lists for number in each], np.uint64)
    return Ragged(flat, np.cumsum([len(each) for each in lists]))


@pytest.mark.parametrize(
    ("text", "other", "same"),
    [
        ("Hello, World!", "hello   world", True),
        ("hello world", "world hello", False),
        ("hello", "hello hello", False),
        ("!!", "??", False),
        ("", None, True),
        ("漢字", "漢 字", True),
        ("naïve Ärger", "NAÏVE ärger", True),
        ("ab c", "a bc", False),
    ],
)
def test_key_is_that_of_the_words_in_order(text, other, same):
    first, second = keyed(text, other)
    assert (first == second) is same


def test_a_key_does_not_depend_on_the_texts_around_it():
    assert keyed("one two", "three")[1] == keyed("", "x y z", "three")[2]


def test_chinese_characters_are_words_and_latin_runs_between_them_too():
    assert words(pl.Series(["漢字abc字", "a_1 b-2"])).lengths.tolist() == [4, 3]


def test_ngrams_of_each_text_and_what_stands_for_a_short_one():
    texts = pl.Series(["a b c d", "a b", "", "b c d"])
    found = words(texts)
    grams = ngrams(found, 3)
    assert grams.lengths.tolist() == [2, 0, 0, 1]
    assert grams.values[1] == grams.values[2]  # "b c d", wherever it stands
    key = keys(texts, found)
    short = ngrams(found, 3, key)
    assert short.lengths.tolist() == [2, 1, 1, 1]
    assert short.values[[2, 3]].tolist() == key[[1, 2]].tolist()
    assert ngrams(words(pl.Series(["a"])), 3).lengths.tolist() == [0]


def test_jaccard_of_sets_with_repetitions():
    """{1,2,3} and {2,3,4}: 2 / 4. {1} and {1}: 1. {} and {}: 0. {1,2} and {3}: 0."""
    left, right = sets([1, 2, 3, 3], [1], [], [1, 2]), sets([4, 3, 2], [1, 1], [], [3])
    assert jaccard(left, right).tolist() == [0.5, 1.0, 0.0, 0.0]


def test_taking_and_concatenating_sequences():
    parts = concatenate([sets([1, 2], []), sets([3])])
    taken = parts.take(np.array([2, 0, 0, 1]))
    assert taken.lengths.tolist() == [1, 2, 2, 0]
    assert taken.values.tolist() == [parts.values[2], *parts.values[:2], *parts.values[:2]]
    assert len(parts.take(np.array([], np.int64)).values) == 0
    assert len(concatenate([])) == 0


def test_distinct_counts():
    lists = sets([1, 1, 2], [], [5, 5, 5])
    assert distinct_counts(numbered(lists), 3).tolist() == [2, 0, 1]
