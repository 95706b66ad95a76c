"""Reading what a run has left behind, each file checked, as the records that the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.pages.report.charts import MAX_POINTS
from scoreonce.pipeline.pages.report.data import RunRecord, metrics_table, step_bands
from scoreonce.pipeline.pages.report.samples import SampleRecord
from scoreonce.pipeline.verdict.text import document
from scoreonce.pipeline.verdict.verdict import verdict
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage, Manifest
from scoreonce.schemas.samples import policy_label
from scoreonce.schemas.tables import HeldOutStep
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import read_json, read_toml
from scoreonce.stages.common.frames import scan_frame
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.samples import read_samples, sampled_labels, samples_manifest
from scoreonce.stages.data.training_runs import held_out_rows, metric_lines, read_evaluation, step_tables
from scoreonce.stages.verdict.gather import after_evaluation, after_training, judged


def run_record(paths: RunPaths) -> RunRecord:
    """Everything about the training run and evaluation that `paths` names; empty where a stage has not run.

    Raises `InputError` where a file is damaged or of another version.
    """
    summary, pairs = _evaluation(paths)
    metrics = metrics_table(metric_lines(paths))
    return RunRecord(
        label=paths.label,
        metrics=metrics,
        bands=_bands(paths),
        held_out=_held_out(paths),
        lineage=manifest_fields(Lineage, paths.lineage),
        settings=_settings(paths.training / "run.toml"),
        summary=summary,
        pairs=pairs,
        verdict=_verdict(paths, summary, pairs) if summary or metrics.height else {},
        finished=paths.policy.is_dir(),
    )


def manifest_fields(kind: type[Manifest], path: Path) -> dict[str, Any]:
    """The fields of a manifest as plain values, for the page; empty where there is none."""
    return manifests.read(kind, path).model_dump(mode="json") if path.is_file() else {}


def sample_records(paths: RunPaths, labels: Sequence[str]) -> tuple[SampleRecord, ...]:
    """The samples of the reference and of the chosen runs, realigned or not, and of whatever is not a run.

    Raises `InputError` where a file is damaged.
    """
    runs = {folder.name for folder in (paths.out / "train").glob("*")}
    found = {label: samples_manifest(paths, label) for label in sampled_labels(paths)}
    return tuple(
        SampleRecord(label, read_samples(paths, label), manifest.model_dump(mode="json", exclude={"files"}))
        for label, manifest in found.items()
        if (own := policy_label(label)) in labels or own not in runs or label in labels
    )


def _evaluation(paths: RunPaths) -> tuple[dict[str, Any], pl.DataFrame | None]:
    """The summary, with its figures beside the facts, and the pairs."""
    manifest = read_evaluation(paths)
    if manifest is None:
        return {}, None
    facts = manifest.model_dump(mode="json", exclude={"figures", "files"})
    return facts | manifest.figures, _table(paths.evaluation_pairs)


def _verdict(paths: RunPaths, summary: dict[str, Any], pairs: pl.DataFrame | None) -> dict[str, Any]:
    """That of `evaluate`; of judged samples, before it, or of an earlier version, what the files allow to say."""
    if pairs is None:
        return document(verdict(after_training(paths)))
    try:
        if paths.evaluation_verdict.is_file() and judged(paths) is None:
            return read_json(paths.evaluation_verdict)
    except (OSError, ValueError) as error:
        raise _damaged(paths.evaluation_verdict, error, "evaluate") from None
    return document(verdict(after_evaluation(paths, paths, pairs, summary)))


def _bands(paths: RunPaths) -> pl.DataFrame:
    parts = step_tables(paths)
    if not parts:
        return pl.DataFrame()
    try:
        return step_bands(scan_frame(parts), MAX_POINTS).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(parts[0], error, "train") from None


def _held_out(paths: RunPaths) -> pl.DataFrame:
    rows = held_out_rows(paths)
    return pl.DataFrame(rows, schema=HeldOutStep.create_empty().schema) if rows else pl.DataFrame()


def _table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, error, "evaluate") from None


def _settings(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise _damaged(path, error, "train") from None


def _damaged(path: Path, error: Exception, stage: str) -> InputError:
    return InputError(
        "A file of the run cannot be read.",
        found=str(error).splitlines()[0],
        where=str(path),
        fix=f"Run `scoreonce {stage}` again: it rewrites the file.",
    )
