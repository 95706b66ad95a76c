"""Making pairs of the rows, batch by batch, into the files of `prepare`; the manifest comes last."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scoreonce.pipeline.detection.judged_values import JudgedValues
from scoreonce.pipeline.text.held_out import is_held_out
from scoreonce.pipeline.text.preparation_summary import PreparationSummary, preparation_summary
from scoreonce.pipeline.text.rows_to_pairs import QuarantinedRow
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import PairsManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.frames import scan_frame
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.progress import progress
from scoreonce.stages.common.removal import remove
from scoreonce.stages.config import Data, Run
from scoreonce.stages.data.dataset import Dataset
from scoreonce.stages.prepare.batches import Prepare, PreparedBatch, preparing
from scoreonce.stages.prepare.pair_files import PairFiles, open_pair_files, quarantine_table, uncommitted
from scoreonce.stages.raw.raw_data import limited
from scoreonce.stages.raw.raw_files import RawRow

logger = logging.getLogger(__name__)

FIRST_REASONS = 3  # rows that the message shows where none can be used


def write_pairs(
    run: Run,
    wanted: dict[str, Any],
    lost: Sequence[Path],
    train: Dataset,
    test: Dataset | None = None,
) -> tuple[PreparationSummary, PairsManifest]:
    """Write pairs, token ids and quarantine, which take the place of the old ones together, and then the manifest.

    `wanted` has the fields of the manifest that decide the pairs; `lost` are the folders of what was made of the old
    ones, removed with them. Raises `InputError` where no row can be used; then the quarantine alone is written.
    """
    paths, data = RunPaths.of(run), run.data
    with uncommitted(paths) as growing:
        with (
            open_pair_files(paths, growing) as files,
            preparing(run, [each for each in (train, test) if each is not None]) as prepare,
        ):
            held_out, test_rows = (None, 0) if test is None else _write_test(files, test, data, prepare)
            rows = _write_train(files, train, data, held_out, prepare)
        tables = (paths.pairs("train"), paths.pairs("test"), paths.quarantine)
        summary = preparation_summary(*(scan_frame(growing[path]) for path in tables), raw=rows + test_rows)
        if not summary.train or (test is not None and not summary.test):
            raise _no_pairs(summary, data, paths, growing[paths.quarantine], given_test=test is not None)
        digests = {path.name: sha256(temporary) for path, temporary in growing.items()}
        for folder in lost:
            remove(folder, inside=paths.out)
        # From here to the new manifest there is none, so that no stage takes half of the new files for the old.
        remove(paths.pairs_manifest, inside=paths.out)
    manifest = PairsManifest(**wanted, **summary.manifest(), files=digests)
    manifests.write(paths.pairs_manifest, manifest)
    return summary, manifest


def _write_test(files: PairFiles, dataset: Dataset, data: Data, prepare: Prepare) -> tuple[set[str], int]:
    """Write the given held-out pairs; returns their prompts, and how many rows there were."""
    prompts: set[str] = set()
    rows = 0
    for batch in _prepared(dataset, data, prepare, "Preparing test"):
        rows += batch.rows
        prompts.update(batch.pairs.column("prompt_id").to_pylist())
        files.pairs["test"].add(batch.pairs, batch.tokens)
        refused = [replace(row, detail=f"test data: {row.detail}") for row in batch.refused]
        files.quarantine.add(quarantine_table(refused))
    return prompts, rows


def _write_train(files: PairFiles, dataset: Dataset, data: Data, held_out: set[str] | None, prepare: Prepare) -> int:
    """Write the training pairs, and without given held-out pairs the share of prompts that is kept from training.

    Returns how many rows there were.
    """
    rows = 0
    for batch in _prepared(dataset, data, prepare, "Preparing"):
        rows += batch.rows
        prompts, refused = batch.pairs.column("prompt_id").to_pylist(), batch.refused
        if held_out is None:
            of_test = {prompt for prompt in prompts if is_held_out(prompt, data.test_share, data.seed)}
        else:
            of_test = held_out
        apart = pa.array([prompt in of_test for prompt in prompts], pa.bool_())
        if held_out is None:
            files.pairs["test"].add(batch.pairs.filter(apart), batch.tokens.filter(apart))
        else:
            refused = sorted([*refused, *_leaked(batch.pairs.filter(apart))], key=lambda row: row.row)
        kept = pc.invert(apart)
        files.pairs["train"].add(batch.pairs.filter(kept), batch.tokens.filter(kept))
        files.quarantine.add(quarantine_table(refused))
    return rows


def _leaked(pairs: pa.Table) -> list[QuarantinedRow]:
    return [
        QuarantinedRow(pair["row"], "prompt_is_in_test_set", f"prompt {pair['prompt_id']}", pair["source"])
        for pair in pairs.select(["row", "prompt_id", "source"]).to_pylist()
    ]


def _prepared(dataset: Dataset, data: Data, prepare: Prepare, description: str) -> Iterator[PreparedBatch]:
    """Pairs and quarantined rows, batch by batch, with a progress bar.

    Logs how often each value of a preference or a label occurs.
    """
    raw, recipe = dataset.raw, dataset.recipe
    judged = JudgedValues(recipe.columns)

    def counted() -> Iterator[list[RawRow]]:
        for rows in limited(raw.batches(recipe.columns.read), data.limit):
            judged.add(rows)
            yield rows

    with progress(min(raw.rows, data.limit or raw.rows), "rows", description) as bar:
        for batch in prepare(counted(), dataset):
            yield batch
            bar.update(batch.rows)
    for line in judged.lines():
        logger.info(line)


def _no_pairs(
    summary: PreparationSummary, data: Data, paths: RunPaths, quarantine: Path, *, given_test: bool
) -> InputError:
    """The error for data without one usable row. The reasons that it sums up are kept beside the pairs."""
    reasons = [f"{reason}: {rows:,}" for reason, rows in summary.by_reason.items()]
    if summary.test and not given_test:
        reasons.append(f"held out by test_share = {data.test_share}: {summary.test:,}")
    first = scan_frame(quarantine).head(FIRST_REASONS).collect()
    shown = [f"row {row}: {reason}, {detail}" for row, reason, detail, _ in first.iter_rows()]
    fix = "Correct the rows or settings that the reasons name; data.columns and data.format say how to read them."
    if shown:
        # The quarantine of pairs that are there belongs to them.
        kept = paths.failed_quarantine if paths.pairs_manifest.exists() else paths.quarantine
        quarantine.replace(kept)
        fix = f"{fix} Every row with its reason is in {kept}."
    return InputError(
        f"Not one row can be used in the {'test' if summary.train else 'train'} split.",
        found="; ".join(reasons) or "no rows",
        where="\n         ".join([f"data.source = {data.source!r}", *shown]),
        fix=fix,
    )
