"""Reading what a run has left behind, each file checked, as the records that the page shows."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.pages.report.charts import MAX_POINTS
from scoreonce.pipeline.pages.report.data import RunRecord, metrics_table, step_bands
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import EvaluationManifest, Lineage, Manifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import read_json
from scoreonce.stages.common.frames import scan_frame
from scoreonce.stages.common.paths import RunPaths


def run_record(paths: RunPaths) -> RunRecord:
    """Everything about the training run and evaluation that `paths` names; empty where a stage has not run.

    Raises `InputError` where a file is damaged or of another version.
    """
    training = paths.training
    summary, pairs = _evaluation(paths)
    return RunRecord(
        label=paths.label,
        metrics=metrics_table(_lines(training / "metrics.jsonl")),
        bands=_bands(training),
        lineage=manifest_fields(Lineage, paths.lineage),
        settings=_toml(training / "run.toml"),
        summary=summary,
        pairs=pairs,
        finished=paths.policy.is_dir(),
    )


def manifest_fields(kind: type[Manifest], path: Path) -> dict[str, Any]:
    """The fields of a manifest as plain values, for the page; empty where there is none."""
    return manifests.read(kind, path).model_dump(mode="json") if path.is_file() else {}


def demo_entries(path: Path, labels: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """True rewards of the chosen runs, and of whatever is not a run, as the reference; empty without the demo."""
    if not path.is_file():
        return ()
    runs = {folder.name for folder in (path.parent / "train").glob("*")}
    try:
        entries = read_json(path)
    except ValueError as error:
        raise _damaged(path, error, "demo judge") from None
    return tuple(entry for entry in entries if entry["label"] in labels or entry["label"] not in runs)


def _evaluation(paths: RunPaths) -> tuple[dict[str, Any], pl.DataFrame | None]:
    """The summary, with its figures beside the facts, and the pairs."""
    if not paths.evaluation_summary.is_file():
        return {}, None
    manifest = manifests.read(EvaluationManifest, paths.evaluation_summary)
    manifests.require_files(manifest, paths.evaluation)
    facts = manifest.model_dump(mode="json", exclude={"figures", "files"})
    return facts | manifest.figures, _table(paths.evaluation / "pairs.parquet")


def _bands(training: Path) -> pl.DataFrame:
    """From the whole step log, or from the parts that an unfinished run has written so far."""
    whole = training / "steps.parquet"
    parts = [whole] if whole.is_file() else sorted((training / "steps").glob("[!.]*.parquet"))
    if not parts:
        return pl.DataFrame()
    try:
        return step_bands(scan_frame(parts), MAX_POINTS).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(parts[0], error, "train") from None


def _table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, error, "evaluate") from None


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    # A run that is still writing can leave half a line.
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    try:
        return [json.loads(line) for line in whole]
    except ValueError as error:
        raise _damaged(path, error, "train") from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise _damaged(path, error, "train") from None


def _damaged(path: Path, error: Exception, stage: str) -> InputError:
    return InputError(
        "A file of the run cannot be read.",
        found=str(error).splitlines()[0],
        where=str(path),
        fix=f"Run `scoreonce {stage}` again: it rewrites the file.",
    )
