"""Texts as sequences of word hashes, and the n-grams of these.

A word is a run of letters, digits and underscores in lower case; a Chinese or Japanese character is a word of its own.
So texts that differ in case, white space and punctuation have the same words. Hashes are polars' own: stable within a
process, never stored.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from scoreonce.pipeline.audit.measures.ragged import Hashes, Ragged

SHINGLE = 3  # words of the n-grams whose sets are compared
_ONE_BY_ONE = r"\p{Han}\p{Hiragana}\p{Katakana}"
WORD = rf"[{_ONE_BY_ONE}]|[\w--[{_ONE_BY_ONE}]]+"
_MIX, _STEP = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x9E3779B97F4A7C15)


def words(texts: pl.Series) -> Ragged:
    """The word hashes of each text; null has none."""
    found = texts.fill_null("").str.to_lowercase().str.extract_all(WORD)
    lengths = found.list.len().to_numpy().astype(np.int64)
    return Ragged(found.explode(empty_as_null=False).hash().to_numpy(), np.cumsum(lengths))


def keys(texts: pl.Series, found: Ragged) -> Hashes:
    """A hash of each text's words in order, of the text itself where it has no word; (texts,)."""
    lengths = found.lengths
    place = np.arange(len(found.values)) - np.repeat(found.ends - lengths, lengths)
    sums = np.concatenate([[np.uint64(0)], np.cumsum(_mixed(found.values ^ (place.astype(np.uint64) * _STEP)))])
    whole = _mixed(sums[found.ends] - sums[found.ends - lengths])
    return np.where(lengths > 0, whole, texts.fill_null("").hash().to_numpy())


def ngrams(found: Ragged, n: int, short: Hashes | None = None) -> Ragged:
    """Hashes of each text's n-grams. A text of fewer words has the one hash in `short`, or none without it."""
    lengths = found.lengths
    left = np.repeat(found.ends, lengths) - np.arange(len(found.values))  # words from here to the end of the text
    grams = found.values[: max(len(found.values) - n + 1, 0)].copy()
    for step in range(1, n):
        grams = followed_by(grams, found.values[step : step + len(grams)])
    grams = grams[left[: len(grams)] >= n]
    counts = np.maximum(lengths - n + 1, 0)
    if short is None:
        return Ragged(grams, np.cumsum(counts))
    alone = counts == 0
    counts = np.maximum(counts, 1)
    ends = np.cumsum(counts)
    values = np.empty(ends[-1] if len(ends) else 0, np.uint64)
    values[np.repeat(~alone, counts)] = grams
    values[ends[alone] - 1] = short[alone]
    return Ragged(values, ends)


def followed_by(hashes: Hashes, more: Hashes) -> Hashes:
    """A hash of each sequence with one more element, from the hashes of both."""
    return _mixed(hashes * _STEP + more)


def _mixed(values: Hashes) -> Hashes:
    mixed = (values ^ (values >> np.uint64(30))) * _MIX
    return mixed ^ (mixed >> np.uint64(31))
