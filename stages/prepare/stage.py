"""prepare: a dataset becomes token pairs, a held-out split and a quarantine.

Reads a Hub dataset or local files, finds the format, tokenises every pair once, and writes under `<out>/pairs`:
{train,test}.parquet, {train,test}.tokens.arrow, quarantine.parquet and, last, manifest.json. Does nothing where the
manifest shows the same data, settings, tokenizer and chat template. Memory is bounded by a few batches of rows for each
of `data.processes`, or CPU of a Ray cluster (but for a `.json` file that holds one array). `data.limit` cuts the
training data and the given test data alike.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from scoreonce.pipeline.text.formats import FORMATS
from scoreonce.pipeline.text.preparation_summary import summary_lines
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import PairsManifest, TokenizerRecord
from scoreonce.stages.cluster.connection import require_ray
from scoreonce.stages.common import manifests
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.manifests import Difference
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.results import PrepareResult, PreviewResult
from scoreonce.stages.config import Data, Run
from scoreonce.stages.data.dataset import Dataset, dataset_of, open_test, open_train, tokenizer_of
from scoreonce.stages.data.encoding import encoding_of, template_inputs
from scoreonce.stages.data.prepared_pairs import data_settings, pairs_differences
from scoreonce.stages.models.tokenizers import other_rules, special_tokens
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.outputs.units import MARKERS_OF_RESULTS
from scoreonce.stages.prepare.batches import ENGINE
from scoreonce.stages.prepare.made_of_pairs import MadeOfPairs
from scoreonce.stages.prepare.preview import first_pairs, written_pairs
from scoreonce.stages.prepare.write_pairs import write_pairs

logger = logging.getLogger(__name__)
PREVIEWED = 2  # pairs that the result has as text


@at_address(*MARKERS_OF_RESULTS, writes="pairs")
def prepare(run: Run, *, restart: bool = False, lock_timeout: float | None = None) -> PrepareResult:
    """Turn the dataset of a run into token pairs, unless they are up to date.

    Pairs of other data or settings are replaced if nothing was made of them, or with `restart`, which deletes the
    reference scores, training runs, evaluations, exports and comparison of this run's folder. Another process that
    writes there is waited for, at most `lock_timeout` seconds. Raises `InputError` where the data cannot be read, no
    row can be used, or results would be lost.
    """
    data, paths = run.data, RunPaths.of(run)
    if data.engine == "ray":
        require_ray("Preparing", ENGINE)
    _require_room(data)
    tokenizer = tokenizer_of(run)
    encoding = encoding_of(tokenizer, run)
    train, test = open_train(data), open_test(data)
    wanted: dict[str, Any] = {
        "config": data_settings(data),
        "inputs": {**train.inputs, **(test.inputs if test else {}), **template_inputs(data)},
        "tokenizer": TokenizerRecord(
            name=tokenizer.name_or_path,
            vocab_size=len(tokenizer),
            digest=encoding.encoder.digest,
            special=special_tokens(tokenizer, encoding.encoder.ends.values()),
        ),
    }
    with locked(paths, paths.prepared, f"the folder {paths.prepared}", timeout=lock_timeout):
        done = manifests.readable(PairsManifest, paths.pairs_manifest)
        changed = [] if done is None else _changes(done, wanted)
        damaged = [] if done is None else manifests.file_changes(done, paths.prepared)
        if done is not None and not changed and not damaged:
            counts, where = done.counts, paths.prepared
            logger.info(f"Pairs are up to date: {counts.train:,} train and {counts.test:,} test in {where}")
            return PrepareResult(paths, done)
        if differs := other_rules(tokenizer):
            logger.warning(
                f"{differs} If the file is right, as it mostly is, copy the tokenizer's files to a folder without a "
                "config.json, set tokenizer_class to PreTrainedTokenizerFast in its tokenizer_config.json, and "
                "data.tokenizer to that folder."
            )
        made = MadeOfPairs.of(paths)
        changed = changed if done else made.differences(wanted["config"])
        # The same data and settings make the same pairs again, of which nothing is lost.
        lost = made if changed else MadeOfPairs()
        if not restart:
            lost.require_restart(paths, changed)
        datasets = [dataset_of(raw, data, encoding) for raw in (train, test) if raw is not None]
        _log_plan([*changed, *damaged], datasets)
        with lost.unused(paths, lock_timeout):
            summary, manifest = write_pairs(run, wanted, lost.folders, *datasets)
    deleted = [f"Deleted {lost}"] if lost.folders else []
    logger.info("\n".join([*summary_lines(summary), *deleted, f"Written to {paths.prepared}"]))
    return PrepareResult(paths, manifest, written_pairs(paths, encoding.encoder, PREVIEWED))


def preview(run: Run, count: int) -> PreviewResult:
    """The first `count` training pairs as text, without writing anything. Raises `InputError` as `prepare` does."""
    _require_room(run.data)
    dataset = dataset_of(open_train(run.data), run.data, encoding_of(tokenizer_of(run), run))
    _log_plan([], [dataset])
    return first_pairs(dataset, run.data, count)


def _changes(done: PairsManifest, wanted: dict[str, Any]) -> list[Difference]:
    """What differs from the pairs that are wanted. A data file that was only touched is the same file."""
    then, now = done.tokenizer.digest, wanted["tokenizer"].digest
    return [
        *pairs_differences(done, wanted["config"], wanted["inputs"]),
        *([] if then == now else [Difference(f"tokenizer of {wanted['tokenizer'].name}", then, now)]),
    ]


def _require_room(data: Data) -> None:
    if data.max_prompt_length is not None and data.max_prompt_length >= data.max_length:
        raise InputError(
            "max_prompt_length leaves no room for a completion.",
            found=f"max_prompt_length = {data.max_prompt_length}, max_length = {data.max_length}",
            where="the data section of the run file, or --set",
            fix="Raise data.max_length or lower data.max_prompt_length.",
        )


def _log_plan(changed: Sequence[Difference], datasets: Sequence[Dataset]) -> None:
    if changed:
        logger.info(manifests.again("Preparing", changed, "prepared"))
    for dataset in datasets:
        recipe = dataset.recipe
        names = recipe.columns.names.items()
        used = ", ".join(role if role == column else f"{role} = {column}" for role, column in names)
        meaning = FORMATS[recipe.format].meaning
        said = [f"Format of {dataset.raw.name}: {recipe.format} ({meaning}), from columns {used}", *dataset.notes]
        logger.info("\n  ".join(said))
