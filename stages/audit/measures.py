"""The measures of every pair, made once from the files of `prepare` and kept for later audits of the same pairs.

Texts and token ids are read in pieces, on all cores (polars, numpy and rensa release the interpreter lock) or by a Ray
cluster. What is measured in a piece is written at once; of all pairs together only what relates them is in memory.
Writes <out>/audit/measures.parquet (of each pair by itself), relations.parquet (what other pairs have to do with it,
row by row beside it) and, last, measures.json, which says what they were made from.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from scoreonce.pipeline.audit.checks.schema_rules import broken_rules, with_rules
from scoreonce.pipeline.audit.measures import text, tokens
from scoreonce.pipeline.audit.measures.contamination import EvaluationGrams
from scoreonce.pipeline.audit.measures.near_duplicates import Sketches, kept, merged, near_duplicates
from scoreonce.pipeline.audit.measures.ragged import Counts, Ragged, concatenate
from scoreonce.pipeline.audit.measures.relations import near_relations, relations, with_ids
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import MeasuresManifest
from scoreonce.schemas.tables import Pair
from scoreonce.stages.audit.annotations import Annotations
from scoreonce.stages.audit.pieces import Piece, pieces_of
from scoreonce.stages.audit.workers import Workers, workers_of
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import parquet_in_pieces, sha256
from scoreonce.stages.common.frames import scan_frame
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.progress import progress
from scoreonce.stages.common.removal import remove
from scoreonce.stages.config import Audit

logger = logging.getLogger(__name__)

ROWS_PER_GROUP = 65_536


@dataclass(frozen=True)
class Inputs:
    """What measures are made with, besides the pairs."""

    settings: Audit
    special: tokens.SpecialIds | None
    evaluation: EvaluationGrams | None
    evaluation_digests: dict[str, str]
    annotations: Annotations | None


@dataclass(frozen=True)
class _Noted:
    """What is remembered of the pieces: the pairs that break a rule, and the sketches of their texts."""

    broken: list[pl.DataFrame] = field(default_factory=list)
    prompts: list[Sketches] = field(default_factory=list)
    completions: list[Sketches] = field(default_factory=list)


def measures(paths: RunPaths, inputs: Inputs) -> pl.LazyFrame:
    """The measures, remade where the pairs or settings that they were made from have changed; read as they are used."""
    files, wanted = [paths.measures, paths.relations], _made_from(paths, inputs)
    if manifests.changes(MeasuresManifest, paths.measures_manifest, wanted):
        remove(paths.measures_manifest, inside=paths.out)
        _measure(paths, inputs)
        digests = {path.name: sha256(path) for path in files}
        manifests.write(paths.measures_manifest, MeasuresManifest(**wanted, files=digests))
    return pl.concat([scan_frame(path) for path in files], how="horizontal")


def _made_from(paths: RunPaths, inputs: Inputs) -> dict[str, Any]:
    """What decides the measures, as fields of their manifest."""
    special = inputs.special
    return {
        "pairs_manifest_sha256": sha256(paths.pairs_manifest),
        "settings": inputs.settings.model_dump(
            include={"near_duplicates", "similarity", "ngram", "votes", "vote_first", "vote_second"}
        ),
        "special": special and {"bos": special.bos, "ends": list(special.ends), "every": special.every.tolist()},
        "contamination": inputs.evaluation_digests,
    }


def _measure(paths: RunPaths, inputs: Inputs) -> None:
    pieces = pieces_of(paths)
    if not pieces:
        raise InputError(
            "There are no pairs to audit.",
            found="0 rows in both splits",
            where=str(paths.pairs("train")),
            fix="Look at the quarantine file beside it for what kept them out.",
        )
    with workers_of(inputs.settings.engine, paths, inputs) as workers:
        noted = _measure_each(paths.measures, pieces, workers)
        pairs, columns = scan_frame(paths.measures), []
        if inputs.settings.near_duplicates:
            columns.append(_near_duplicates(pairs, noted, pieces, inputs.settings.similarity, workers))
    columns.insert(0, relations(pairs))
    related = with_rules(pl.concat(columns, how="horizontal"), noted.broken)
    pair_ids = pairs.select("pair_id").collect(engine="streaming")["pair_id"]
    with parquet_in_pieces(paths.relations, rows_per_group=ROWS_PER_GROUP) as write:
        for some in related.iter_slices(ROWS_PER_GROUP):
            write(with_ids(some, pair_ids).to_arrow(compat_level=pl.CompatLevel.oldest()))


def _measure_each(path: Path, pieces: Sequence[Piece], workers: Workers) -> _Noted:
    """Write what can be said of each pair by itself; returns what is needed to compare pairs."""
    noted, rows = _Noted(), sum(piece.rows for piece in pieces)
    with (
        parquet_in_pieces(path, rows_per_group=ROWS_PER_GROUP) as write,
        progress(rows, "pairs", "Reading texts") as bar,
    ):
        for piece, (found, broken) in zip(pieces, workers(_read, pieces), strict=True):
            write(found.frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
            noted.broken.extend([] if broken is None else [broken])
            if found.prompts is not None and found.completions is not None:
                kept(noted.prompts, found.prompts)
                kept(noted.completions, found.completions)
            bar.update(piece.rows)
    return noted


def _read(inputs: Inputs, piece: Piece) -> tuple[text.TextMeasures, pl.DataFrame | None]:
    """The measures of a piece, with the other columns of its pairs, and which of these break a rule."""
    pairs = piece.read(Pair.column_names())
    places = pl.int_range(piece.first, piece.first + pairs.height, dtype=pl.Int64, eager=True)
    found = text.measure(
        pairs.select(text.SIDES), piece.first, sketch=inputs.settings.near_duplicates, evaluation=inputs.evaluation
    )
    parts = [
        pairs.drop(text.SIDES).with_columns(split=pl.lit(piece.split)),
        found.frame,
        piece.token_measures(inputs.special),
        *([inputs.annotations.of(piece.split, pairs["row"])] if inputs.annotations else []),
    ]
    frame = pl.concat(parts, how="horizontal")
    return replace(found, frame=frame), broken_rules(pairs, places)


def _near_duplicates(
    pairs: pl.LazyFrame, noted: _Noted, pieces: Sequence[Piece], similarity: float, workers: Workers
) -> pl.DataFrame:
    """The group of each text that has a near-duplicate, and the number of another pair of the group."""

    def read(places: Counts) -> Ragged:
        return _shingles_at(places, pieces, workers)

    def compared(parts: list[Sketches], name: str) -> pl.DataFrame:
        found = merged(parts)
        parts.clear()
        return near_duplicates(found, read, similarity).frame(name)

    logger.info("Comparing near-duplicates")
    completions = compared(noted.completions, "near_completion")
    return near_relations(pairs, compared(noted.prompts, "near_prompt"), completions)


def _shingles_at(places: Counts, pieces: Sequence[Piece], workers: Workers) -> Ragged:
    """The shingles of the texts at places (3 · pair + side), read once more, in that order."""
    order = np.argsort(places)
    pair = places[order] // len(text.SIDES)
    cuts = np.searchsorted(pair, [piece.first for piece in pieces] + [pieces[-1].first + pieces[-1].rows])
    used = [number for number in range(len(pieces)) if cuts[number] < cuts[number + 1]]
    wanted = [(pieces[number], places[order[cuts[number] : cuts[number + 1]]]) for number in used]
    return concatenate(list(workers(_shingles, wanted))).take(np.argsort(order))


def _shingles(_: Inputs, wanted: tuple[Piece, Counts]) -> Ragged:
    """Those of the texts at places of one piece."""
    piece, places = wanted
    rows, sides = places // len(text.SIDES) - piece.first, places % len(text.SIDES)
    table = piece.read(text.SIDES)
    # One column after the other, each row a text: a text's place in it is side · rows + row.
    texts = pl.concat([table[side].alias("text") for side in text.SIDES])
    return text.shingles_of(texts.gather(sides * table.height + rows))
