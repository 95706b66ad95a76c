"""Warnings about training runs: each names the run, what was observed, and what to try.

What became of a run, and what to do about its settings, is said by its verdict alone (`pipeline.verdict`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl

from scoreonce.pipeline.pages.numbers import flatten, number, percent
from scoreonce.pipeline.pages.report.data import ReportData, RunRecord
from scoreonce.schemas.metrics import GRAD_NORM, KEPT

LOW_KEPT = 0.5
GRADIENT_SPIKE = 100.0
MANY_TIES = 0.2


@dataclass(frozen=True)
class RunWarning:
    """One warning of one run, or of the page as a whole where `run` is empty.

    `serious` ones put a result in doubt, the others are worth knowing.
    """

    severity: Literal["serious", "notice"]
    run: str
    title: str
    seen: str
    advice: str


def run_warnings(data: ReportData) -> list[list[RunWarning]]:
    """Warnings grouped by kind, serious kinds first."""
    found = [warning for run in data.runs for warning in (*_training(run), *_evaluation(run))]
    kinds: dict[tuple[bool, str], list[RunWarning]] = {}
    for warning in [*found, *_comparison(data)]:
        kinds.setdefault((warning.severity != "serious", warning.title), []).append(warning)
    return [kinds[kind] for kind in sorted(kinds, key=lambda kind: kind[0])]


def _training(run: RunRecord) -> Iterator[RunWarning]:
    if not run.trained:
        return
    if not run.finished and run.verdict.get("state") != "unfinished":
        yield RunWarning(
            "serious",
            run.label,
            "Training has not finished",
            f"{run.metrics.height} steps and no final model.",
            "Run train again: it resumes from the last checkpoint.",
        )
    yield from _spike(run)
    kept = run.metrics[KEPT].mean() if KEPT in run.metrics.columns else None
    if isinstance(kept, float) and kept < LOW_KEPT:
        yield RunWarning(
            "notice",
            run.label,
            "Most pairs are filtered out",
            f"{percent(kept)} of the pairs were kept on average.",
            "Loosen the selection, or check the step log for the pairs it drops.",
        )


def _spike(run: RunRecord) -> Iterator[RunWarning]:
    if GRAD_NORM not in run.metrics.columns:
        return
    norms = run.metrics.filter(pl.col(GRAD_NORM).is_finite())[GRAD_NORM]
    median, peak = norms.median(), norms.max()
    if isinstance(median, float) and isinstance(peak, float) and peak > GRADIENT_SPIKE * median > 0:
        yield RunWarning(
            "notice",
            run.label,
            "The gradient norm spikes",
            f"Its peak of {number(peak)} is {number(peak / median)} times its median.",
            "Check the pairs of that step in the step log, and that train.max_grad_norm clips.",
        )


def _evaluation(run: RunRecord) -> Iterator[RunWarning]:
    if run.evaluated and MANY_TIES < run.summary["ties"] < 1:
        yield RunWarning(
            "notice",
            run.label,
            "Many margins are exactly zero",
            f"{percent(run.summary['ties'])} of the held-out pairs tie.",
            "Ties count half. In half precision, a policy may be too close to the reference to tell them apart.",
        )


def _comparison(data: ReportData) -> Iterator[RunWarning]:
    for key, what in (("data.files.train.parquet", "training pairs"), ("reference.store_key", "reference scores")):
        values = {value for run in data.runs if (value := flatten(run.lineage).get(key)) is not None}
        if len(values) > 1:
            yield RunWarning(
                "serious",
                "",
                f"The runs used different {what}",
                f"Their lineage names {len(values)} different ones.",
                "Train again from the current ones before comparing.",
            )
    current = data.reference_manifest.get("store_key")
    for run in data.runs:
        evaluated_with = run.summary.get("reference", {}).get("store_key")
        if current and evaluated_with and evaluated_with != current:
            yield RunWarning(
                "serious",
                run.label,
                "Evaluated under another reference",
                "The reference has been scored again since.",
                "Run evaluate again.",
            )
        trained, evaluated = run.lineage.get("identity"), run.summary.get("training_identity")
        if trained and evaluated and trained != evaluated:
            yield RunWarning(
                "serious",
                run.label,
                "Trained again since its evaluation",
                "The held-out results are those of the previous policy.",
                "Run evaluate again.",
            )
    starting = [run.label for run in data.runs if run.trained and not run.evaluated]
    if starting:
        yield RunWarning("notice", "", "Not evaluated yet", ", ".join(starting), "Run scoreonce evaluate for each.")
