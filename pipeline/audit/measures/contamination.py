"""Overlap of pairs with evaluation prompts, by n-grams of words: the usual test for benchmark leakage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.pipeline.audit.measures.ragged import Counts, Hashes, Ragged
from scoreonce.pipeline.audit.measures.words import keys, ngrams, words

_SIEVE_BITS = 24


@dataclass(frozen=True)
class EvaluationGrams:
    """The n-grams of evaluation prompts; a prompt of fewer words counts whole."""

    n: int
    names: tuple[str, ...]  # of the files
    grams: Hashes  # sorted
    gram_files: Counts  # the first file that has each
    texts: Hashes  # of the whole prompts of fewer than n words, sorted
    text_files: Counts
    sieve: npt.NDArray[np.bool_]  # by the upper bits of an n-gram: False where it is certainly in no file


def evaluation_grams(prompts: dict[str, pl.Series], n: int) -> EvaluationGrams:
    """The n-grams of evaluation prompts by file name. Prompts without a word are left out."""
    grams, gram_files, texts, text_files = [], [], [], []
    for number, series in enumerate(prompts.values()):
        found = words(series)
        of_file = np.unique(ngrams(found, n).values)
        short = np.unique(keys(series, found)[(found.lengths > 0) & (found.lengths < n)])
        grams.append(of_file)
        gram_files.append(np.full(len(of_file), number))
        texts.append(short)
        text_files.append(np.full(len(short), number))
    sorted_grams = _first_file(grams, gram_files)
    sieve = np.zeros(1 << _SIEVE_BITS, bool)
    sieve[_upper(sorted_grams[0])] = True
    return EvaluationGrams(n, tuple(prompts), *sorted_grams, *_first_file(texts, text_files), sieve)


def overlap(found: Ragged, key: Hashes, pairs: int, evaluation: EvaluationGrams) -> dict[str, pl.Series]:
    """Which pairs overlap, from the words and keys of all prompts, then all chosen, then all rejected sides.

    `prompt_contamination` and `completion_contamination` (the larger of both sides): share of the text's n-grams that
    an evaluation prompt has; 1 for a text that equals a whole short prompt. `contamination_file`: the first such file.
    """
    grams = ngrams(found, evaluation.n)
    files = _lookup(grams.values, evaluation.grams, evaluation.gram_files, evaluation.sieve)
    text = np.repeat(np.arange(3 * pairs), grams.lengths)
    hits = np.bincount(text[files >= 0], minlength=3 * pairs)
    share = hits / np.maximum(grams.lengths, 1)
    file = np.full(3 * pairs, len(evaluation.names))
    np.minimum.at(file, text[files >= 0], files[files >= 0])
    whole = _lookup(key, evaluation.texts, evaluation.text_files)
    short = (found.lengths > 0) & (found.lengths < evaluation.n) & (whole >= 0)
    share[short], file[short] = 1.0, whole[short]
    by_side, first = share.reshape(3, pairs).astype(np.float32), file.reshape(3, pairs).min(axis=0)
    names = pl.Series([*evaluation.names, None], dtype=pl.String)
    return {
        "prompt_contamination": pl.Series(by_side[0]),
        "completion_contamination": pl.Series(by_side[1:].max(axis=0)),
        "contamination_file": names.gather(first),
    }


def _first_file(hashes: list[Hashes], files: list[Counts]) -> tuple[Hashes, Counts]:
    if not hashes:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    distinct, first = np.unique(np.concatenate(hashes), return_index=True)
    return distinct, np.concatenate(files)[first]


def _upper(hashes: Hashes) -> Counts:
    return (hashes >> np.uint64(64 - _SIEVE_BITS)).astype(np.int64)


def _lookup(hashes: Hashes, known: Hashes, files: Counts, sieve: npt.NDArray[np.bool_] | None = None) -> Counts:
    """The file of each hash, -1 where it is in none."""
    found = np.full(len(hashes), -1)
    if not len(known):
        return found
    maybe = np.arange(len(hashes)) if sieve is None else np.flatnonzero(sieve[_upper(hashes)])
    place = np.minimum(np.searchsorted(known, hashes[maybe]), len(known) - 1)
    hit = known[place] == hashes[maybe]
    found[maybe[hit]] = files[place[hit]]
    return found
