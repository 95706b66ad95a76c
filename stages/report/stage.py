"""The last stage: one HTML page about the training runs under <out>/train and <out>/evaluate.

    scoreonce report configs/x.toml --label dpo --label beta_dpo

Writes <out>/report.html. Shows what is there: a run that was not evaluated, or still trains, has its part of the page.
If the demo has left <out>/demo.json, true rewards are shown too.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.pages.report.charts import MAX_POINTS
from scoreonce.pipeline.pages.report.data import ReportData, RunRecord, metrics_table, step_bands
from scoreonce.pipeline.pages.report.page import render
from scoreonce.pipeline.pages.report.warnings import run_warnings
from scoreonce.schemas.columns import did_you_mean
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import atomic, read_json
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run


def run(run: Run, *, labels: Sequence[str] | None = None) -> None:
    """Write the page about all runs, or those named, and print its path.

    Raises `InputError` where there is no run at all, an unknown label, or a damaged file.
    """
    paths = RunPaths.of(run)
    chosen = _choose(paths, labels)
    data = ReportData(
        runs=tuple(_record(paths, label) for label in chosen),
        pairs_manifest=_json(paths.pairs_manifest, "prepare"),
        reference_manifest=_json(paths.reference_manifest, "score"),
        demo=_demo(paths.out / "demo.json", chosen),
        title=f"{paths.out.name}: scoreonce report",
        made=f"{datetime.now().astimezone():%Y-%m-%d %H:%M}",
    )
    with atomic(paths.report) as temporary:
        temporary.write_text(render(data), encoding="utf-8")
    serious = ", ".join(kind[0].title for kind in run_warnings(data) if kind[0].severity == "serious")
    print(
        f"report: {len(chosen)} run{'s' if len(chosen) > 1 else ''}, {serious or 'no serious warning'}; "
        f"page in {paths.report}"
    )


def _choose(paths: RunPaths, labels: Sequence[str] | None) -> list[str]:
    folders = [path for name in ("train", "evaluate") for path in (paths.out / name).glob("[!.]*") if path.is_dir()]
    there = sorted({path.name for path in folders})
    if not there:
        raise InputError(
            "There is nothing to report on.",
            found=f"no folder in {paths.out / 'train'}",
            where="`out` of the run file",
            fix="Run `scoreonce train` first, then `scoreonce evaluate`.",
        )
    for label in labels or []:
        if label not in there:
            raise InputError(
                "No training run has this label.",
                found=f"{label!r}.{did_you_mean(label, there)}",
                where=str(paths.out),
                fix=f"Give one of: {', '.join(there)}.",
            )
    return [label for label in there if label in labels] if labels else there


def _record(paths: RunPaths, label: str) -> RunRecord:
    training, evaluation = paths.out / "train" / label, paths.out / "evaluate" / label
    summary = _json(evaluation / "summary.json", "evaluate")
    return RunRecord(
        label=label,
        metrics=metrics_table(_lines(training / "metrics.jsonl")),
        bands=_bands(training),
        lineage=_json(training / "lineage.json", "train"),
        settings=_toml(training / "run.toml"),
        summary=summary,
        pairs=_table(evaluation / "pairs.parquet", "evaluate") if summary else None,
        finished=(training / "model").is_dir(),
    )


def _bands(training: Path) -> pl.DataFrame:
    """From the whole step log, or from the parts that an unfinished run has written so far."""
    whole = training / "steps.parquet"
    parts = [whole] if whole.is_file() else sorted((training / "steps").glob("[!.]*.parquet"))
    if not parts:
        return pl.DataFrame()
    try:
        return step_bands(pl.scan_parquet(parts), MAX_POINTS).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(parts[0], error, "train") from None


def _table(path: Path, stage: str) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, error, stage) from None


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    # A run that is still writing can leave half a line.
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    try:
        return [json.loads(line) for line in whole]
    except ValueError as error:
        raise _damaged(path, error, "train") from None


def _json(path: Path, stage: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        tree: dict[str, Any] = read_json(path)
    except ValueError as error:
        raise _damaged(path, error, stage) from None
    return tree


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise _damaged(path, error, "train") from None


def _demo(path: Path, labels: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """True rewards of the chosen runs, and of whatever is not a run, as the reference."""
    if not path.is_file():
        return ()
    runs = {folder.name for folder in (path.parent / "train").glob("*")}
    try:
        entries = read_json(path)
    except ValueError as error:
        raise _damaged(path, error, "demo judge") from None
    return tuple(entry for entry in entries if entry["label"] in labels or entry["label"] not in runs)


def _damaged(path: Path, error: Exception, stage: str) -> InputError:
    return InputError(
        "A file of the run cannot be read.",
        found=str(error).splitlines()[0],
        where=str(path),
        fix=f"Run `scoreonce {stage}` again, which writes it anew.",
    )
