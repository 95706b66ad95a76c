"""Measures of the texts of pairs, one batch at a time.

Each measure depends on one pair only. Similarity is the Jaccard index of the sets
of 3-word shingles (`words.SHINGLE`), or of the whole text if it has fewer words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from scoreonce.pipeline.audit.measures import near_duplicates, phrases
from scoreonce.pipeline.audit.measures.contamination import EvaluationGrams, overlap
from scoreonce.pipeline.audit.measures.languages import languages
from scoreonce.pipeline.audit.measures.ragged import Ragged, jaccard
from scoreonce.pipeline.audit.measures.words import SHINGLE, keys, ngrams, words

SIDES = ("prompt", "chosen", "rejected")
COMPLETIONS = ("chosen", "rejected")


@dataclass(frozen=True)
class TextMeasures:
    """A batch's measures, one row per pair, and the sketches of its distinct prompts and completions."""

    frame: pl.DataFrame
    prompts: near_duplicates.Sketches | None
    completions: near_duplicates.Sketches | None


def measure(texts: pl.DataFrame, first: int, *, sketch: bool, evaluation: EvaluationGrams | None) -> TextMeasures:
    """Measures of a batch with columns prompt, chosen and rejected; `first` is the number of its first pair.

    `sketch` adds the sketches by which near-duplicates are found; `evaluation` has the n-grams of evaluation prompts.
    Measures of a side that a row does not have are null.
    """
    pairs = texts.height
    everything = pl.concat([texts[side].fill_null("").alias("text") for side in SIDES])
    found = words(everything)
    key = keys(everything, found)
    shingles = ngrams(found, SHINGLE, key)
    of_side = [_part(shingles, side * pairs, pairs) for side in range(3)]
    has_side = {side: texts[side].is_not_null() for side in COMPLETIONS}
    columns = {f"{side}_key": pl.Series(key[i * pairs : (i + 1) * pairs]) for i, side in enumerate(SIDES)}
    columns["similarity"] = pl.Series(jaccard(of_side[1], of_side[2]).astype(np.float32))
    columns |= {f"{side}_script": _scripts(texts[side]) for side in SIDES}
    language = languages(found)
    columns |= {f"{side}_language": language[i * pairs : (i + 1) * pairs] for i, side in enumerate(SIDES)}
    if evaluation is not None:
        columns |= overlap(found, key, pairs, evaluation)
    frame = texts.select(_expressions()).hstack(pl.DataFrame(columns))
    for side, has in has_side.items():
        of_its_own = [name for name in frame.columns if name.startswith(f"{side}_") or name == "similarity"]
        frame = frame.with_columns(pl.when(has).then(pl.col(name)).alias(name) for name in of_its_own)
    if not sketch:
        return TextMeasures(frame, None, None)
    place = np.arange(first, first + pairs) * len(SIDES)
    keep = np.concatenate([has.to_numpy() for has in has_side.values()])
    completions = near_duplicates.sketches(
        _part(shingles, pairs, 2 * pairs), key[pairs:], np.concatenate([place + 1, place + 2]), keep
    )
    return TextMeasures(frame, near_duplicates.sketches(of_side[0], key[:pairs], place), completions)


def shingles_of(texts: pl.Series) -> Ragged:
    """The shingle hashes whose sets are compared, for texts that are read a second time."""
    found = words(texts)
    return ngrams(found, SHINGLE, keys(texts, found))


def _part(sequences: Ragged, start: int, count: int) -> Ragged:
    begin = sequences.ends[start - 1] if start else 0
    ends = sequences.ends[start : start + count]
    return Ragged(sequences.values[begin : ends[-1] if len(ends) else begin], ends - begin)


def _expressions() -> list[pl.Expr]:
    per_side = [
        expression.alias(f"{side}_{name}")
        for side in COMPLETIONS
        for name, expression in _completion(pl.col(side)).items()
    ]
    special = list(phrases.SPECIAL_TOKENS)
    return [
        *per_side,
        pl.any_horizontal(pl.col(side).str.contains_any(special) for side in COMPLETIONS)
        .fill_null(value=False)
        .alias("control_token_in_completion"),
        pl.col("prompt").str.contains_any(special).alias("control_token_in_prompt"),
        pl.any_horizontal(pl.col(side).str.contains(phrases.CONTROL) for side in SIDES)
        .fill_null(value=False)
        .alias("control_character"),
    ]


def _completion(side: pl.Expr) -> dict[str, pl.Expr]:
    opening = side.str.slice(0, phrases.REFUSAL_CHARACTERS)
    return {
        "characters": side.str.len_chars().cast(pl.Int32),
        "bytes": side.str.len_bytes().cast(pl.Int32),
        "markdown": side.str.count_matches(phrases.MARKDOWN).cast(pl.Int32),
        "list_items": side.str.count_matches(phrases.LIST_ITEMS).cast(pl.Int32),
        "refuses": opening.str.contains_any(phrases.REFUSALS, ascii_case_insensitive=True),
        "names_itself": side.str.contains_any(phrases.IDENTITY, ascii_case_insensitive=True),
    }


def _scripts(texts: pl.Series) -> pl.Series:
    """The script of most letters at the start of each text; null with fewer than `SCRIPT_LETTERS`."""
    opening = pl.col("text").str.slice(0, phrases.SCRIPT_CHARACTERS)
    frame = pl.DataFrame({"text": texts}).select(opening, place=pl.int_range(pl.len()))
    ascii_only = pl.col("text").str.len_bytes() == pl.col("text").str.len_chars()
    plain = frame.filter(ascii_only).select(
        "place", script=pl.when(pl.col("text").str.contains(phrases.TEN_LATIN_LETTERS)).then(pl.lit("Latin"))
    )
    counted = frame.filter(~ascii_only).select(
        "place", *(pl.col("text").str.count_matches(rf"\p{{{script}}}").alias(script) for script in phrases.SCRIPTS)
    )  # counted before it is compared: an eager frame evaluates an expression as often as it is written
    other = counted.select("place", script=_most_frequent_script())
    found = pl.concat([plain, other, frame.filter(pl.col("text").is_null()).select("place", script=pl.lit(None))])
    return found.sort("place")["script"].cast(pl.Enum(phrases.SCRIPTS))


def _most_frequent_script() -> pl.Expr:
    most = pl.max_horizontal(phrases.SCRIPTS)
    named = pl.coalesce(pl.when(pl.col(script) == most).then(pl.lit(script)) for script in phrases.SCRIPTS)
    return pl.when(most >= phrases.SCRIPT_LETTERS).then(named)
