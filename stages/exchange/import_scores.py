"""Reference sums of another trainer, for the methods of this one that read no more.

    scoreonce import-reference configs/x.toml trl_dataset/       needs prepare

Writes reference/ as `score` does: a row per pair, and manifest.json, last, which says what they were imported from. The
store is left alone, so that imported numbers are never among those that were scored; `score` replaces them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import ImportedScores, ReferenceManifest
from scoreonce.schemas.margins import ref_margin
from scoreonce.schemas.tables import ReferencePair
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256, write_parquet
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.locking import locked, remove_unfinished
from scoreonce.stages.common.paths import SPLITS, RunPaths, Split
from scoreonce.stages.common.removal import require_inside
from scoreonce.stages.config import Run
from scoreonce.stages.data.prepared_pairs import require_pairs
from scoreonce.stages.data.reference_scores import CACHE_TOLERANCE
from scoreonce.stages.exchange.trl_values import SIDES, TrlValues, files_of, read_values
from scoreonce.stages.exchange.verify import Verified, model_is_here, verify
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.store.identity import StoreIdentity
from scoreonce.stages.store.store import ReferenceStore

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"  # weights that were not there to be digested
_COLUMNS = ["pair_id", "chosen_id", "rejected_id", "prompt_len", "chosen_len", "rejected_len", "row"]


@at_address("pairs/*", writes="reference")
def import_reference(
    run: Run, sources: Sequence[Path], *, max_length: int | None = 1024, lock_timeout: float | None = None
) -> ReferenceManifest:
    """Write the reference tables from datasets that TRL has precomputed, and return their manifest.

    A value belongs to the pair whose prompt and completion have the same token ids, cut to `max_length`, which is
    DPOConfig.max_length of the run that made them (None: nothing was cut). Where the model is here,
    `train.verify_pairs` training pairs are scored again. Raises `InputError` where the pairs are not prepared or have
    scores already, where a value is missing or is no log-prob, or where the values are not those of the reference.
    """
    paths, files = RunPaths.of(run), files_of(sources)
    values = TrlValues(max_length, CACHE_TOLERANCE[run.reference.dtype])
    read_values(files, values)
    # As `score` does where it writes the tables: `prepare` takes the same lock.
    with locked(paths, paths.prepared, f"the folder {paths.prepared}", timeout=lock_timeout):
        require_pairs(run)
        _require_unscored(paths)
        tables, here = {split: _table(paths, split, values) for split in SPLITS}, model_is_here(run)
        verified = verify(run, tables["train"]) if here and run.train.verify_pairs else None
        imported = ImportedScores(
            source="TRL",
            files={str(file.resolve()): sha256(file) for file in files},
            max_length=max_length,
            verified=verified.pairs if verified else 0,
            worst=verified.worst if verified else None,
        )
        manifest = _write(run, paths, tables, imported, here=here)
    logger.info("\n".join(_summary(manifest, values, verified, here=here)))
    return manifest


def _require_unscored(paths: RunPaths) -> None:
    """Raise `InputError` where the pairs have scores that `score` made."""
    there = manifests.readable(ReferenceManifest, paths.reference_manifest)
    if there is None or there.imported is not None:
        return
    if there.pairs_manifest_sha256 == sha256(paths.pairs_manifest):
        raise InputError(
            "The pairs have reference scores already, which `scoreonce score` made.",
            found=f"{sum(there.pairs.values()):,} pairs, scored with {there.model}",
            where=str(paths.reference_manifest),
            fix="Train from them: they hold all that an import does. To train from imported ones, set another `out`.",
        )


def _table(paths: RunPaths, split: Split, values: TrlValues) -> pl.DataFrame:
    """The distinct pairs of a split with their sums, and `place`, the row of each in the token file.

    Raises `InputError` where one has no value.
    """
    pairs = read_frame(paths.pairs(split), _COLUMNS).with_row_index("place")
    pairs, found = pairs.unique("pair_id", keep="first", maintain_order=True), values.frame()
    for side in SIDES:
        of_side = found.rename({"completion_id": f"{side}_id", "logps": f"ref_{side}_logps"})
        pairs = pairs.join(of_side, on=f"{side}_id", how="left", maintain_order="left")
    missing = pairs.filter(
        pl.any_horizontal(pl.col(f"{side}_id").is_not_null() & pl.col(f"ref_{side}_logps").is_null() for side in SIDES)
    )
    if missing.height:
        raise InputError(
            "Pairs have no value among those that are imported.",
            found=f"{missing.height:,} of {pairs.height:,} pairs of {split}, the first of row {missing['row'][0]} of "
            f"the dataset; {values.rows:,} rows were read",
            where=str(paths.pairs(split)),
            fix="A value belongs to the same token ids. Where all are missing, TRL tokenised otherwise: its chat "
            "template writes more after the answer, or --max-length is not that run's. Where some are, import the "
            "evaluation dataset too, or prepare fewer pairs (data.test_share, data.limit).",
        )
    return pairs


def _write(
    run: Run, paths: RunPaths, tables: dict[Split, pl.DataFrame], imported: ImportedScores, *, here: bool
) -> ReferenceManifest:
    path = paths.reference_manifest
    require_inside(path.parent, paths.out)
    remove_unfinished(path.parent, inside=paths.out)
    for split, table in tables.items():
        write_parquet(paths.reference(split), _reference_pairs(table).to_arrow(compat_level=pl.CompatLevel.oldest()))
    manifest = ReferenceManifest(
        **_identity(run, here=here),
        layout="",
        store_key=_key(imported),
        mismatched=False,
        embeddings=False,
        pairs_manifest_sha256=sha256(paths.pairs_manifest),
        pairs={split: table.height for split, table in tables.items()},
        imported=imported,
        files={paths.reference(split).name: sha256(paths.reference(split)) for split in tables},
    )
    manifests.write(path, manifest)
    return manifest


def _reference_pairs(table: pl.DataFrame) -> pl.DataFrame:
    """Rows of `ReferencePair`; what was not imported is null."""
    whole = table.with_columns(ref_margin=ref_margin())
    types = ReferencePair.create_empty().schema
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in types.items() if name not in whole.columns]
    return ReferencePair.validate(whole.with_columns(absent).select(ReferencePair.column_names()), cast=True)


def _identity(run: Run, *, here: bool) -> dict[str, Any]:
    """Whose sums they are said to be; the weights are digested where they are here."""
    reference = run.reference
    stated = {"model": reference.model, "dtype": reference.dtype, "quantization": reference.quantization}
    if here:
        identity = ReferenceStore.of(run).identity
        return {**stated, "weights": identity.weights, "adapter": identity.adapter, "head": identity.head}
    return {**stated, "weights": UNKNOWN, "adapter": reference.adapter and UNKNOWN, "head": StoreIdentity.head}


def _key(imported: ImportedScores) -> str:
    """A name that no store has, since theirs are hexadecimal: nothing that was scored is found by it."""
    canonical = json.dumps(sorted(imported.files.values()))
    return f"imported-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"


def _summary(manifest: ReferenceManifest, values: TrlValues, verified: Verified | None, *, here: bool) -> list[str]:
    counts = ", ".join(f"{pairs:,} of {split}" for split, pairs in manifest.pairs.items())
    lines = [f"imported   pairs: {counts}, from {values.rows:,} rows"]
    if values.fills:
        lines.append(f"           {values.fills:,} rows were passed over: their prompt fills --max-length")
    if verified is not None:
        same = f"the same to {verified.worst:.1e} nats per token on the worst"
        lines.append(f"verified   {verified.pairs:,} pairs scored again: {same}")
    else:
        why = (
            "train.verify_pairs is 0" if here else f"{manifest.model} is not on this machine; import again where it is"
        )
        lines.append(f"not verified: {why}")
    return lines
