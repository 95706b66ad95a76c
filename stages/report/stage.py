"""The last stage: one HTML page about the training runs under <out>/train and <out>/evaluate.

    scoreonce report configs/x.toml --label dpo --label beta_dpo

Writes <out>/report.html. Shows what is there: a run that was not evaluated, or still trains, has its part of the page.
Where the demo has written <out>/demo.json, true rewards are shown too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from scoreonce.pipeline.pages.report.data import ReportData
from scoreonce.pipeline.pages.report.page import render
from scoreonce.pipeline.pages.report.warnings import run_warnings
from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.schemas.manifests import PairsManifest, ReferenceManifest
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.results import ReportResult
from scoreonce.stages.config import Run
from scoreonce.stages.data.samples import SAID, best_of_n, demo_entries, judgement_records
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.outputs.pages import write_page
from scoreonce.stages.outputs.units import LOGS
from scoreonce.stages.report.records import manifest_fields, run_record, sample_records

logger = logging.getLogger(__name__)


@at_address(
    "pairs/manifest.json",
    "pairs/test.parquet",
    "audit/audit.json",
    "reference/manifest.json",
    *LOGS,
    "train/*/model/scoreonce.json",
    "evaluate/*",
    *SAID,
    writes="report.html",
)
def report(run: Run, *, labels: Sequence[str] | None = None, lock_timeout: float | None = None) -> ReportResult:
    """Write one HTML page about all training runs, or those named.

    Another report on this run is waited for, at most `lock_timeout` seconds. Raises `InputError` where there is no run
    at all, an unknown label, or a file that is damaged or of another version.
    """
    paths = RunPaths.of(run)
    chosen = _choose(paths, labels)
    with locked(paths, paths.report, f"the report {paths.report}", timeout=lock_timeout):
        data = _collect(paths, chosen)
        write_page(paths, paths.report, render(data))
    _log(data, paths)
    return ReportResult(paths.report, tuple(chosen))


def _collect(paths: RunPaths, labels: Sequence[str]) -> ReportData:
    return ReportData(
        runs=tuple(run_record(replace(paths, label=label)) for label in labels),
        pairs_manifest=manifest_fields(PairsManifest, paths.pairs_manifest),
        reference_manifest=manifest_fields(ReferenceManifest, paths.reference_manifest),
        demo=demo_entries(paths, labels),
        best_of_n=best_of_n(paths),
        samples=sample_records(paths, labels),
        judgements=judgement_records(paths, labels),
        title=f"{paths.out.name}: scoreonce report",
        made=f"{datetime.now().astimezone():%Y-%m-%d %H:%M}",
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


def _log(data: ReportData, paths: RunPaths) -> None:
    warned = [kind[0].title for kind in run_warnings(data) if kind[0].severity == "serious"]
    doubted = [run for run in data.runs if run.verdict.get("severity") == "serious"]
    serious = "; ".join([*(f"{run.label} {run.verdict['headline']}" for run in doubted), *warned])
    runs = f"{len(data.runs)} run{'s' if len(data.runs) > 1 else ''}"
    logger.info("report: %s, %s; page in %s", runs, serious or "no serious warning", paths.report)
