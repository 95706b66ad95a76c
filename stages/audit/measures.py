"""The measures of every pair, made once from the files of `prepare` and kept for later audits of the same pairs.

Reads texts and token ids in pieces, on all cores: polars, numpy and rensa release the interpreter lock. Writes
<out>/audit/measures.parquet and, last, measures.json, which says what they were made from.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from scoreonce.pipeline.audit.checks.schema_rules import broken_rules, with_rules
from scoreonce.pipeline.audit.measures import near_duplicates, text, tokens
from scoreonce.pipeline.audit.measures.contamination import EvaluationGrams
from scoreonce.pipeline.audit.measures.ragged import Counts, Ragged, concatenate
from scoreonce.pipeline.audit.measures.relations import with_near_duplicates, with_relations
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import MeasuresManifest
from scoreonce.schemas.tables import Pair
from scoreonce.stages.audit.annotations import Annotations
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256, write_parquet
from scoreonce.stages.common.paths import SPLITS, RunPaths, Split
from scoreonce.stages.common.progress import progress
from scoreonce.stages.common.removal import remove
from scoreonce.stages.config import Audit

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 8192
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Inputs:
    """What measures are made with, besides the pairs."""

    settings: Audit
    special: tokens.SpecialIds | None
    evaluation: EvaluationGrams | None
    evaluation_digests: dict[str, str]
    annotations: Annotations | None


@dataclass(frozen=True)
class RowGroups:
    """Consecutive row groups of one split; `first` is the number of its first pair over both splits."""

    path: Path
    split: Split
    groups: list[int]
    first: int
    rows: int

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """Its rows."""
        frame = pl.from_arrow(pq.ParquetFile(self.path).read_row_groups(self.groups, columns=list(columns)))
        assert isinstance(frame, pl.DataFrame)
        return frame


@dataclass(frozen=True)
class Part:
    """What one piece gave."""

    scalars: pl.DataFrame
    text: text.TextMeasures
    broken: pl.DataFrame | None


def measures(paths: RunPaths, inputs: Inputs) -> Path:
    """The file of measures, remade where the pairs or settings that it was made from have changed."""
    path, wanted = paths.measures, _made_from(paths, inputs)
    if manifests.changes(MeasuresManifest, paths.measures_manifest, wanted):
        remove(paths.measures_manifest, inside=paths.out)
        frame = _measure(paths, inputs)
        write_parquet(path, frame.to_arrow(compat_level=pl.CompatLevel.oldest()), rows_per_group=65_536)
        manifests.write(paths.measures_manifest, MeasuresManifest(**wanted, files={path.name: sha256(path)}))
    return path


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


def _measure(paths: RunPaths, inputs: Inputs) -> pl.DataFrame:
    pieces = _pieces(paths)
    if not pieces:
        raise InputError(
            "There are no pairs to audit.",
            found="0 rows in both splits",
            where=str(paths.pairs("train")),
            fix="Look at the quarantine file beside it for what kept them out.",
        )
    parts: list[Part] = []
    with progress(sum(piece.rows for piece in pieces), "pairs", "Reading texts") as bar:
        for piece, part in zip(pieces, _concurrently(lambda piece: _read(piece, inputs), pieces), strict=True):
            parts.append(part)
            bar.update(piece.rows)
    frame = pl.concat([part.scalars.hstack(part.text.frame) for part in parts])
    frame = frame.hstack(_token_measures(paths, inputs.special))
    frame = with_relations(with_rules(frame, [part.broken for part in parts if part.broken is not None]))
    if inputs.annotations is not None:
        frame = frame.join(inputs.annotations.by_row, on=["split", "row"], how="left", maintain_order="left")
    if inputs.settings.near_duplicates:
        prompts = near_duplicates.merged([part.text.prompts for part in parts if part.text.prompts])
        completions = near_duplicates.merged([part.text.completions for part in parts if part.text.completions])
        parts.clear()
        return _with_near_duplicates(frame, prompts, completions, pieces, inputs.settings.similarity)
    return frame


def _pieces(paths: RunPaths) -> list[RowGroups]:
    pieces: list[RowGroups] = []
    first = 0
    for split in SPLITS:
        metadata = pq.ParquetFile(paths.pairs(split)).metadata
        sizes = {group: metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)}
        filled = [group for group, rows in sizes.items() if rows]
        each = max(1, ROWS_AT_ONCE // max(sizes.values(), default=1)) if filled else 1
        for start in range(0, len(filled), each):
            groups = filled[start : start + each]
            pieces.append(RowGroups(paths.pairs(split), split, groups, first, sum(sizes[group] for group in groups)))
            first += pieces[-1].rows
    return pieces


def _read(piece: RowGroups, inputs: Inputs) -> Part:
    pairs = piece.read(Pair.column_names())
    places = pl.int_range(piece.first, piece.first + pairs.height, dtype=pl.Int64, eager=True)
    scalars = pairs.drop(text.SIDES).with_columns(split=pl.lit(piece.split))
    found = text.measure(
        pairs.select(text.SIDES), piece.first, sketch=inputs.settings.near_duplicates, evaluation=inputs.evaluation
    )
    return Part(scalars, found, broken_rules(pairs, places))


def _concurrently(function: Callable[[T], R], items: Sequence[T]) -> Iterable[R]:
    """The results in order, made by as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        yield from threads.map(function, items)


def _token_measures(paths: RunPaths, special: tokens.SpecialIds | None) -> pl.DataFrame:
    def measured(work: tuple[Path, int]) -> pl.DataFrame:
        path, number = work
        with pa.memory_map(str(path)) as mapped:
            batch = pa.ipc.open_file(mapped).get_batch(number)
            prompt, chosen, rejected = (_lists(batch.column(f"{side}_ids")) for side in text.SIDES)
            return tokens.measure(prompt, chosen, rejected, special)

    works: list[tuple[Path, int]] = []
    for split in SPLITS:
        with pa.memory_map(str(paths.tokens(split))) as mapped:
            works += [(paths.tokens(split), number) for number in range(pa.ipc.open_file(mapped).num_record_batches)]
    found = list(_concurrently(measured, works))
    return pl.concat(found) if found else pl.DataFrame()


def _lists(column: pa.ListArray) -> tokens.TokenLists:
    offsets = column.offsets.to_numpy().astype(np.int64)
    return tokens.TokenLists(column.flatten().to_numpy(), offsets[1:] - offsets[0])


def _with_near_duplicates(
    frame: pl.DataFrame,
    prompts: near_duplicates.Sketches,
    completions: near_duplicates.Sketches,
    pieces: Sequence[RowGroups],
    similarity: float,
) -> pl.DataFrame:
    """Adds the group of each text that has a near-duplicate, and the pair_id of another pair of the group."""

    def read(places: Counts) -> Ragged:
        return _shingles_at(places, pieces)

    logger.info("Comparing near-duplicates")
    of_prompts = near_duplicates.near_duplicates(prompts, read, similarity).frame("near_prompt")
    of_completions = near_duplicates.near_duplicates(completions, read, similarity).frame("near_completion")
    return with_near_duplicates(frame, of_prompts, of_completions)


def _shingles_at(places: Counts, pieces: Sequence[RowGroups]) -> Ragged:
    """The shingles of the texts at places (3 · pair + side), read once more, in that order."""
    order = np.argsort(places)
    pair = places[order] // len(text.SIDES)
    cuts = np.searchsorted(pair, [piece.first for piece in pieces] + [pieces[-1].first + pieces[-1].rows])

    def shingles(number: int) -> Ragged:
        wanted = places[order[cuts[number] : cuts[number + 1]]]
        rows, sides = wanted // len(text.SIDES) - pieces[number].first, wanted % len(text.SIDES)
        table = pieces[number].read(text.SIDES)
        # One column after the other, each row a text: a text's place in it is side · rows + row.
        texts = pl.concat([table[side].alias("text") for side in text.SIDES])
        return text.shingles_of(texts.gather(sides * table.height + rows))

    used = [number for number in range(len(pieces)) if cuts[number] < cuts[number + 1]]
    return concatenate(list(_concurrently(shingles, used))).take(np.argsort(order))
