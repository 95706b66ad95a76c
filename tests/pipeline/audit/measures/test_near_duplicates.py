"""Near-duplicates: recall of the banding, exactness of what is reported, and groups."""

import numpy as np
import polars as pl
import pytest

from scoreonce.pipeline.audit.measures import near_duplicates as near
from scoreonce.pipeline.audit.measures.ragged import jaccard
from scoreonce.pipeline.audit.measures.text import shingles_of
from scoreonce.pipeline.audit.measures.words import keys, words

RANDOM = np.random.default_rng(0)


def text(length: int = 60) -> list[str]:
    return [f"w{number}" for number in RANDOM.integers(0, 5000, length)]


def found_in(texts: list[str], threshold: float = 0.8) -> near.NearDuplicates:
    """Each text a prompt of its own pair."""
    series = pl.Series("text", texts)
    shingles, key = shingles_of(series), keys(series, words(series))
    sketches = near.sketches(shingles, key, np.arange(len(texts)) * 3)
    return near.near_duplicates(sketches, lambda places: shingles_of(series.gather(places // 3)), threshold)


def test_pairs_just_above_the_threshold_are_found_and_those_below_are_not():
    """400 texts with a twin of Jaccard index 0.80 to 0.87, 400 with one of 0.70 to 0.79: of 58 shingles 4 to 6 or 7 to
    10 differ. At 0.8 a twin is missed with probability (1 − 0.8⁵)¹⁶ = 0.002."""
    texts, similar = [], set()
    for number in range(800):
        original = text()
        changed = RANDOM.integers(4, 7) if number < 400 else RANDOM.integers(7, 11)
        texts += [" ".join(original), " ".join([*original[:-changed], *text(changed)])]
        similar |= {2 * number, 2 * number + 1} if number < 400 else set()
    series = pl.Series("text", texts)
    near_keys = set(found_in(texts).keys)
    found = {number for number, key in enumerate(keys(series, words(series))) if key in near_keys}
    assert len(found & similar) / len(similar) >= 0.98
    assert not found - similar


def test_groups_reach_over_a_text_in_between():
    """a ~ b and b ~ c, whatever a and c are to each other; d ~ e apart from them; a sixth text resembles none."""
    a, d = text(80), text(80)
    b, e = [*a[:-5], *text(5)], [*d[:-5], *text(5)]
    c = [*text(5), *b[5:]]
    texts = [" ".join(words) for words in (a, d, b, c, e, text())]
    found = found_in(texts)
    series = pl.Series("text", texts)
    group = dict(zip(found.keys.tolist(), found.groups.tolist(), strict=True))
    groups = [group.get(key) for key in keys(series, words(series)).tolist()]
    assert groups[0] == groups[2] == groups[3] is not None
    assert groups[1] == groups[4] is not None
    assert groups[0] != groups[1]
    assert groups[5] is None


def test_equal_words_are_one_document_and_no_near_duplicate():
    assert len(found_in(["Same words here now", "same WORDS, here now!", "other things stand there"]).keys) == 0


def test_both_sides_of_one_pair_are_not_compared_with_each_other():
    words_ = text(100)
    texts = pl.Series("text", [" ".join(words_), " ".join([*words_[:-3], *text(3)])])
    shingles, key = shingles_of(texts), keys(texts, words(texts))
    same_row = near.sketches(shingles, key, np.array([1, 2]))
    assert len(near.candidates(same_row)) == 0
    assert near.candidates(near.sketches(shingles, key, np.array([1, 5]))).tolist() == [[0, 1]]


def test_merging_keeps_the_first_place_and_notices_repetition():
    texts = pl.Series("text", ["a b c d", "e f g h"])
    shingles, key = shingles_of(texts), keys(texts, words(texts))
    merged = near.merged([near.sketches(shingles, key, np.array(places)) for places in ([0, 3], [6, 9])])
    assert sorted(merged.places.tolist()) == [0, 3]
    assert merged.repeated.tolist() == [True, True]


@pytest.mark.parametrize("copies", [2000])
def test_a_template_of_many_texts_does_not_explode(copies):
    """All share 57 of about 60 shingles: one group, with candidates by the thousand and not by the million."""
    template = text()
    found = found_in([" ".join([*template, f"x{number}"]) for number in range(copies)])
    assert len(found.keys) == copies
    assert len(set(found.groups.tolist())) == 1
    assert found.pairs_compared < 100 * copies


@pytest.mark.parametrize(("read", "compared"), [(400, 10**6), (10**9, 300), (50, 50)])
def test_whatever_is_read_and_compared_at_once(monkeypatch, read, compared):
    """Texts of about 20 shingles in 30 groups of three: all at once, and a few at a time."""
    texts = [" ".join([*first[:-2], *text(2)]) for first in (text(22) for _ in range(30)) for _ in range(3)]
    whole, reads = found_in(texts, 0.5), []
    monkeypatch.setattr(near, "_READ_AT_ONCE", read)
    monkeypatch.setattr(near, "_COMPARED_AT_ONCE", compared)
    monkeypatch.setattr(near, "_PAIRS_AT_ONCE", compared)
    series = pl.Series("text", texts)
    sketches = near.sketches(shingles_of(series), keys(series, words(series)), np.arange(len(texts)) * 3)

    def reading(places):
        reads.append(found := shingles_of(series.gather(places // 3)))
        return found

    found = near.near_duplicates(sketches, reading, 0.5)
    assert len(found.keys) > 40
    for name in ("keys", "groups", "others"):
        assert getattr(found, name).tolist() == getattr(whole, name).tolist()
    # A group that begins before the limit is read whole: three texts more.
    assert max(len(each.values) for each in reads) <= max(read, 0) + 3 * 22
    assert (len(reads) > 1) == (read < 10**9)


def test_nothing_to_compare():
    assert len(found_in(["one text alone here"]).keys) == 0
    empty = shingles_of(pl.Series("text", [], dtype=pl.String))
    assert len(jaccard(empty, empty)) == 0
