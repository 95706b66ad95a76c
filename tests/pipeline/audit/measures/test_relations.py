"""Relations between pairs by hand, against polars' own groupings, and how much memory they take."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from scoreonce.pipeline.audit.measures import groups as groups_module
from scoreonce.pipeline.audit.measures import near_duplicates
from scoreonce.pipeline.audit.measures.groups import groups
from scoreonce.pipeline.audit.measures.near_duplicates import BANDS, merged, sketches
from scoreonce.pipeline.audit.measures.ragged import Ragged
from scoreonce.pipeline.audit.measures.relations import near_relations, relations, with_ids

RANDOM = np.random.default_rng(3)


def ids(count: int, kinds: int) -> list[str]:
    return [f"{number:032x}" for number in RANDOM.integers(0, kinds, count)]


def random_pairs(count: int, kinds: int, *, one_sided: bool = False) -> pl.DataFrame:
    chosen, rejected = ids(count, kinds), ids(count, kinds)
    chosen = [None if one_sided and RANDOM.random() < 0.2 else each for each in chosen]
    return pl.DataFrame(
        {
            "pair_id": [f"{one}>{other}" for one, other in zip(chosen, rejected, strict=True)],
            "prompt_id": ids(count, kinds),
            "chosen_id": chosen,
            "rejected_id": rejected,
            "row": RANDOM.permutation(count),
            "split": RANDOM.choice(["train", "test"], count).tolist(),
            "prompt_key": pl.Series(RANDOM.integers(0, kinds, count), dtype=pl.UInt64),
            "chosen_key": keys(chosen),
            "rejected_key": keys(rejected),
        }
    )


def keys(names: list[str | None]) -> pl.Series:
    """Seven of them: other ids may have the same words."""
    return pl.Series([None if name is None else int(name, 16) % 7 for name in names], dtype=pl.UInt64)


def by_polars(pairs: pl.DataFrame) -> pl.DataFrame:
    """The definitions, as window functions over the ids themselves."""
    completions = [pl.min_horizontal("chosen_id", "rejected_id"), pl.max_horizontal("chosen_id", "rejected_id")]
    keys = [pl.min_horizontal("chosen_key", "rejected_key"), pl.max_horizontal("chosen_key", "rejected_key")]
    lowest, highest = pl.col("pair_id").min().over(completions), pl.col("pair_id").max().over(completions)
    opposite = pl.when(pl.col("pair_id") == lowest).then(highest).otherwise(lowest)
    label = pl.coalesce(pl.col("chosen_key") < pl.col("rejected_key"), pl.col("chosen_key").is_not_null())
    words = ["prompt_key", "chosen_key", "rejected_key"]
    return pairs.select(
        pairs_of_prompt=pl.len().over("prompt_id"),
        prompt_splits=pl.col("split").n_unique().over("prompt_id"),
        copies=pl.len().over("pair_id"),
        copy_of=pl.when(~pl.col("pair_id").is_first_distinct()).then(pl.col("row").first().over("pair_id")),
        opposite_pair_id=pl.when(opposite != pl.col("pair_id")).then(opposite),
        same_words=pl.len().over(words),
        words_contradicted=label.min().over(["prompt_key", *keys]) != label.max().over(["prompt_key", *keys]),
        prompt_key_splits=pl.col("split").n_unique().over("prompt_key"),
    )


@pytest.mark.parametrize("one_sided", [False, True])
def test_relations_are_those_of_the_ids_themselves(one_sided):
    pairs = random_pairs(600, 20, one_sided=one_sided)
    expected = by_polars(pairs)
    assert expected["copy_of"].count() > 50
    assert expected["opposite_pair_id"].count() > 50
    assert_frame_equal(with_ids(relations(pairs.lazy()), pairs["pair_id"]), expected)


def test_groups_by_hand():
    """a a b null null: three groups, first at 0, 2 and 3; with the numbers beside them only the nulls are alike."""
    rows = pl.LazyFrame({"name": ["a", "a", "b", None, None], "number": [1, 2, 1, 3, 3]})
    found = groups(rows, "name")
    assert sorted(found.first.tolist()) == [0, 2, 3]
    assert found.sizes().tolist() == [2, 2, 1, 2, 2]
    assert found.mixed(np.array([True, False, True, True, True])).tolist() == [True, True, False, False, False]
    assert groups(rows, "name", "number").sizes().tolist() == [1, 1, 1, 2, 2]
    assert len(groups(rows.head(0), "name").number) == 0


def test_digests_that_are_half_alike_are_told_apart(monkeypatch):
    """As where two ids have one hash of 64 bits: a b a b, with another one first where equal ones are not together."""
    halves = np.array([5, 5, 5, 5], np.uint64), np.array([2, 1, 2, 1], np.uint64)
    monkeypatch.setattr(groups_module, "_digests", lambda pairs, columns: list(halves))
    found = groups(pl.LazyFrame({"name": ["a", "b", "a", "b"]}), "name")
    assert found.sizes().tolist() == [2, 2, 2, 2]
    assert sorted(found.first.tolist()) == [0, 1]
    assert found.number[0] == found.number[2] != found.number[1] == found.number[3]


def test_relations_take_few_bytes_a_pair():
    """Numbers of pairs and groups are 4 bytes, ids as text would be 48: 29 bytes of relations (copy_of is a row of the
    raw data, 8), 24 of near-duplicates, and a bit each for what may be null."""
    pairs = random_pairs(4_000, 3_000)
    distinct = pairs["prompt_key"].unique().sort()
    prompts = pl.DataFrame({"key": distinct, "near_prompt_group": 1, "near_prompt_other": 2})
    completions = pl.DataFrame(
        {"key": pl.Series(range(7), dtype=pl.UInt64), "near_completion_group": 1, "near_completion_other": 2}
    )
    narrow = relations(pairs.lazy()), near_relations(pairs.lazy(), prompts, completions)
    sizes = [frame.estimated_size() / pairs.height for frame in narrow]
    assert sizes[0] <= 34
    assert sizes[1] <= 25


def test_sketches_take_few_bytes_a_document_and_are_not_copied():
    """4 bytes for each of 16 bands, 8 for key and place each, 4 for row and size each, and a bit: 89."""
    values = RANDOM.integers(0, 2**63, 3_000).astype(np.uint64)
    texts = Ragged(values, np.arange(3, 3_001, 3))
    parts = [sketches(texts, values[::3] + np.uint64(part), np.arange(1_000) + 1_000 * part) for part in range(3)]
    whole = merged(parts)
    size = sum(array.nbytes for array in (whole.keys, whole.places, whole.rows, whole.shingles, whole.repeated))
    assert (size + sum(part.nbytes for part in whole.bands)) / len(whole.keys) == 64 + 2 * 8 + 2 * 4 + 1
    assert [band for part in parts for band in part.bands] == [*whole.bands]  # the very arrays
    assert whole.band(BANDS - 1).shape == (3_000,)


def test_sketches_are_kept_in_large_arrays(monkeypatch):
    """Of seven parts of 1,000 documents, by 3,000: three arrays. The documents are those of the parts."""
    monkeypatch.setattr(near_duplicates, "_KEPT_TOGETHER", 3_000)
    texts = Ragged(RANDOM.integers(0, 2**63, 3_000).astype(np.uint64), np.arange(3, 3_001, 3))
    parts = [sketches(texts, texts.values[::3] + np.uint64(part % 5), np.arange(1_000) * 3) for part in range(7)]
    together: list[near_duplicates.Sketches] = []
    for part in parts:
        near_duplicates.kept(together, part)
    assert [len(part.keys) for part in together] == [3_000, 3_000, 1_000]
    one, other = merged(parts), merged(together)
    for name in ("keys", "places", "repeated", "shingles"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert all((one.band(number) == other.band(number)).all() for number in range(BANDS))
