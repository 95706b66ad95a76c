"""Columns of two files: beside each other where they list the same pairs, joined where not."""

import polars as pl
import pytest

from scoreonce.stages.data.side_by_side import beside, joined, same_ids

PAIRS = pl.LazyFrame({"pair_id": ["a", "b", "c"], "length": [1, 2, 3]})


@pytest.mark.parametrize(
    ("ids", "same"),
    [(["a", "b", "c"], True), (["a", "c", "b"], False), (["a", "b"], False), (["a", "b", "c", "c"], False)],
)
def test_same_ids(ids, same):
    assert same_ids(PAIRS, pl.LazyFrame({"pair_id": ids})) is same


def test_beside_adds_what_the_pairs_lack():
    more = pl.LazyFrame({"pair_id": ["a", "b", "c"], "length": [7, 8, 9], "margin": [0.1, 0.2, 0.3]})
    assert beside(PAIRS, more).collect().to_dict(as_series=False) == {
        "pair_id": ["a", "b", "c"],
        "length": [1, 2, 3],
        "margin": [0.1, 0.2, 0.3],
    }
    assert beside(PAIRS, PAIRS).collect_schema().names() == ["pair_id", "length"]


def test_joined_by_id_once_and_null_where_absent():
    more = pl.LazyFrame({"pair_id": ["c", "a", "a"], "margin": [0.3, 0.1, 0.1]})
    assert joined(PAIRS, more).collect()["margin"].to_list() == [0.1, None, 0.3]
    assert joined(PAIRS, PAIRS).collect_schema().names() == ["pair_id", "length"]
