"""prepare: a dataset becomes token pairs, a held-out split and a quarantine.

Reads a Hub dataset or local files, finds the format, tokenises every pair once, and writes under `<out>/pairs`:
{train,test}.parquet, {train,test}.tokens.arrow, quarantine.parquet and, last, manifest.json. Does nothing where the
manifest shows the same data, settings and tokenizer. Memory is bounded by a batch of rows (but for a `.json` file
that holds one array). `data.limit` cuts the training data and the given test data alike.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from transformers import PreTrainedTokenizerBase

from scoreonce.pipeline.text.chat import Render
from scoreonce.pipeline.text.dataset_columns import match_columns
from scoreonce.pipeline.text.formats import FORMATS, detect, require_columns
from scoreonce.pipeline.text.held_out import is_held_out
from scoreonce.pipeline.text.pairing import Pairing
from scoreonce.pipeline.text.preparation_summary import PreparationSummary, preparation_summary, summary_lines
from scoreonce.pipeline.text.quarantine import REASONS, RowError
from scoreonce.pipeline.text.rows_to_pairs import PreparationSettings, PreparedPair, QuarantinedRow, prepare_rows
from scoreonce.pipeline.text.tokenize import Limits, TextEncoder, chat_renderer, text_encoder
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import PairsManifest, Settings, TokenizerRecord
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.progress import progress
from scoreonce.stages.common.results import PrepareResult
from scoreonce.stages.config import Data, Run
from scoreonce.stages.data.prepared_pairs import Inputs, data_settings, pairs_differences
from scoreonce.stages.data.raw_data import RawData, columns_of, limited, open_data
from scoreonce.stages.models.loading import load_tokenizer
from scoreonce.stages.prepare.pair_files import PairFiles, open_pair_files, uncommitted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """Rows to prepare, and how."""

    raw: RawData
    recipe: PreparationSettings


def prepare(run: Run) -> PrepareResult:
    """Turn the dataset of a run into token pairs, unless that is done.

    Raises `InputError` where dataset, tokenizer or settings cannot be used, or no row is left.
    """
    data, paths = run.data, RunPaths.of(run)
    _check_lengths(data)
    tokenizer = _load_tokenizer(run)
    encoder = text_encoder(tokenizer)
    train, test = _open_train(data), _open_test(data)
    wanted: dict[str, Any] = {
        "config": data_settings(data),
        "inputs": {**train.inputs, **(test.inputs if test else {})},
        "tokenizer": TokenizerRecord(name=tokenizer.name_or_path, vocab_size=len(tokenizer), digest=encoder.digest),
    }
    done = _up_to_date(paths, **wanted)
    if done is not None:
        counts = done.counts
        logger.info(
            "Pairs are up to date: %s train and %s test in %s",
            f"{counts.train:,}",
            f"{counts.test:,}",
            paths.out / "pairs",
        )
        return PrepareResult(paths, done)
    render = chat_renderer(tokenizer)
    datasets = [Dataset(raw, _recipe(raw, data, encoder, render)) for raw in (train, test) if raw is not None]
    summary, manifest = _write(paths, data, wanted, *datasets)
    logger.info("\n".join([*summary_lines(summary), f"Written to {paths.out / 'pairs'}"]))
    return PrepareResult(paths, manifest)


def _up_to_date(paths: RunPaths, config: Settings, inputs: Inputs, tokenizer: TokenizerRecord) -> PairsManifest | None:
    """The manifest of the pairs where they need not be made again. A file that was only touched is the same file."""
    done = manifests.readable(PairsManifest, paths.pairs_manifest)
    if done is None or done.tokenizer.digest != tokenizer.digest or pairs_differences(done, config, inputs):
        return None
    return None if manifests.file_changes(done, paths.pairs_manifest.parent) else done


def _check_lengths(data: Data) -> None:
    if data.max_prompt_length is not None and data.max_prompt_length >= data.max_length:
        raise InputError(
            "max_prompt_length leaves no room for a completion.",
            found=f"max_prompt_length = {data.max_prompt_length}, max_length = {data.max_length}",
            where="the data section of the run file, or --set",
            fix="Raise data.max_length or lower data.max_prompt_length.",
        )


def _load_tokenizer(run: Run) -> PreTrainedTokenizerBase:
    if run.data.workers is not None:
        # The tokenizers library runs its own threads and reads their number here, once per process.
        os.environ["RAYON_NUM_THREADS"] = str(run.data.workers)
    if run.data.tokenizer is not None:
        return load_tokenizer(run.data.tokenizer)
    return load_tokenizer(run.reference.model, revision=run.reference.revision)


def _open_train(data: Data) -> RawData:
    return open_data(data.source, subset=data.subset, split=data.split)


def _open_test(data: Data) -> RawData | None:
    if data.test_source is not None:
        return open_data(data.test_source, subset=None, split=data.test_split)
    if data.test_split is None:
        return None
    if Path(data.source).is_file():
        raise InputError(
            "A file has no splits.",
            found=f"test_split = {data.test_split!r} of {data.source}",
            where="data.test_split",
            fix="Name the held-out file under data.test_source, or leave both out and set data.test_share.",
        )
    return open_data(data.source, subset=data.subset, split=data.test_split)


def _recipe(raw: RawData, data: Data, encoder: TextEncoder, render: Render) -> PreparationSettings:
    """How to read the dataset, from its first rows (logged)."""
    head = next(raw.batches(None), [])
    found = columns_of(head)
    if not found:
        reasons = Counter(row.reason for row in head if isinstance(row, RowError))
        raise InputError(
            "The dataset has no row to read.",
            found=", ".join(f"{reason}: {REASONS[reason]}" for reason in reasons) or "it is empty",
            where=raw.name,
            fix="Give a dataset with rows, one JSON object a line if it is JSON.",
        )
    columns = match_columns(found, data.columns)
    if data.format == "auto":
        name = detect(columns, found, [row for row in head if isinstance(row, dict)])
    else:
        name = data.format
        require_columns(name, columns, found)
    used = ", ".join(role if role == column else f"{role} = {column}" for role, column in columns.names.items())
    logger.info("Format of %s: %s (%s), from columns %s", raw.name, name, FORMATS[name].meaning, used)
    limits = Limits(data.max_length, data.max_prompt_length, data.truncation)
    return PreparationSettings(name, columns, render, encoder, limits, _pairing(data), data.preference_from_scores)


def _pairing(data: Data) -> Pairing:
    return Pairing(
        data.pairing,
        data.min_gap,
        data.pairs_per_prompt,
        data.rso_samples,
        data.rso_beta,
        data.rso_ranking,
        data.seed,
    )


def _write(
    paths: RunPaths, data: Data, wanted: dict[str, Any], train: Dataset, test: Dataset | None = None
) -> tuple[PreparationSummary, PairsManifest]:
    with uncommitted(paths) as growing:
        with open_pair_files(paths, growing) as files:
            held_out, test_rows = (None, 0) if test is None else _write_test(files, test, data)
            rows = _write_train(files, train, data, held_out)
        tables = (paths.pairs("train"), paths.pairs("test"), paths.quarantine)
        summary = preparation_summary(*(pl.scan_parquet(growing[path]) for path in tables), raw=rows + test_rows)
        _require_pairs(summary, data, given_test=test is not None)
        digests = {path.name: sha256(temporary) for path, temporary in growing.items()}
        # From here to the new manifest there is none, so that no stage takes half of the new files for the old.
        paths.pairs_manifest.unlink(missing_ok=True)
    manifest = PairsManifest(**wanted, **summary.manifest(), files=digests)
    manifests.write(paths.pairs_manifest, manifest)
    return summary, manifest


def _write_test(files: PairFiles, dataset: Dataset, data: Data) -> tuple[set[str], int]:
    """Write the given held-out pairs; returns their prompts, and how many rows there were."""
    prompts: set[str] = set()
    rows = 0
    for read, pairs, refused in _prepared(dataset, data, "Preparing test"):
        rows = read
        prompts.update(pair.prompt_id for pair in pairs)
        files.pairs["test"].add(pairs)
        files.quarantine.add([replace(row, detail=f"test data: {row.detail}") for row in refused])
    return prompts, rows


def _write_train(files: PairFiles, dataset: Dataset, data: Data, held_out: set[str] | None) -> int:
    """Write the training pairs, and without given held-out pairs the share of prompts that is kept from training.

    Returns how many rows there were.
    """
    rows = 0
    for read, pairs, refused in _prepared(dataset, data, "Preparing"):
        rows = read
        if held_out is None:
            of_test = {pair.prompt_id for pair in pairs if is_held_out(pair.prompt_id, data.test_share, data.seed)}
            files.pairs["test"].add([pair for pair in pairs if pair.prompt_id in of_test])
        else:
            of_test = held_out
            refused = sorted([*refused, *_leaked(pairs, held_out)], key=lambda row: row.row)
        files.pairs["train"].add([pair for pair in pairs if pair.prompt_id not in of_test])
        files.quarantine.add(refused)
    return rows


def _leaked(pairs: list[PreparedPair], held_out: set[str]) -> list[QuarantinedRow]:
    return [
        QuarantinedRow(pair.row, "prompt_is_in_test_set", f"prompt {pair.prompt_id}", pair.text.source)
        for pair in pairs
        if pair.prompt_id in held_out
    ]


def _prepared(
    dataset: Dataset, data: Data, description: str
) -> Iterator[tuple[int, list[PreparedPair], list[QuarantinedRow]]]:
    """Rows read so far, pairs and quarantined rows, batch by batch, with a progress bar."""
    raw, recipe = dataset.raw, dataset.recipe
    first_row = 0
    with progress(min(raw.rows, data.limit or raw.rows), "rows", description) as bar:
        for rows in limited(raw.batches(list(recipe.columns.names.values())), data.limit):
            pairs, refused = prepare_rows(rows, first_row, recipe)
            first_row += len(rows)
            yield first_row, pairs, refused
            bar.update(len(rows))


def _require_pairs(summary: PreparationSummary, data: Data, *, given_test: bool) -> None:
    if summary.train and (summary.test or not given_test):
        return
    reasons = [f"{reason}: {rows:,}" for reason, rows in summary.by_reason.items()]
    if summary.test and not given_test:
        reasons.append(f"held out by test_share = {data.test_share}: {summary.test:,}")
    raise InputError(
        f"Not one row can be used in the {'test' if summary.train else 'train'} split.",
        found="; ".join(reasons) or "no rows",
        where=f"data.source = {data.source!r}",
        fix="Mend the rows or the settings that the reasons name; data.columns and data.format say how to read them.",
    )
