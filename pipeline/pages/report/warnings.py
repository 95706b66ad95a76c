"""Warnings about training runs: each names the run, what was observed, and what to try."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl

from scoreonce.pipeline.pages.numbers import flatten, number, percent, signed
from scoreonce.pipeline.pages.report.data import ReportData, RunRecord, final_mean
from scoreonce.schemas.metrics import ACCURACIES, GRAD_NORM, KEPT, LOSS, REWARDS_CHOSEN

STILL_MARGIN = 0.05  # nats: below the noise of one token
LOW_KEPT = 0.5
LENGTH_GAP = 0.05
OVERFIT_GAP = 0.15
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
    if not run.finished:
        yield RunWarning(
            "serious",
            run.label,
            "Training has not finished",
            f"{run.metrics.height} steps and no final model.",
            "Run train again: it resumes from the last checkpoint.",
        )
    yield from _not_finite(run)
    yield from _still(run)
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
    final = final_mean(run.metrics, REWARDS_CHOSEN)
    if final is not None and final < 0 and not run.evaluated:
        yield RunWarning(
            "notice",
            run.label,
            "Chosen completions become less likely",
            f"The chosen reward of the last tenth of the steps is {signed(final)} on average.",
            "Evaluate the run to see whether the held-out chosen log-ratio falls too.",
        )


def _not_finite(run: RunRecord) -> Iterator[RunWarning]:
    for name in (LOSS, GRAD_NORM):
        if name not in run.metrics.columns:
            continue
        # Training writes null for a number that JSON does not have.
        bad = run.metrics.filter(~pl.col(name).is_finite().fill_null(False))
        if bad.height:
            first, what = bad["step"][0], "Loss" if name == LOSS else "Gradient norm"
            yield RunWarning(
                "serious",
                run.label,
                f"{what} is not finite",
                f"{bad.height} of {run.metrics.height} steps, first at step {first:.0f}.",
                "Lower the learning rate, or compute in float32; do not use the model after that step.",
            )


def _still(run: RunRecord) -> Iterator[RunWarning]:
    if "margin_p50" not in run.bands.columns:
        return
    median = run.bands["margin_p50"].tail(max(1, run.bands.height // 10)).mean()
    if isinstance(median, float) and abs(median) < STILL_MARGIN:
        yield RunWarning(
            "serious",
            run.label,
            "The margin does not change",
            f"The final median training margin is {signed(median, 3)} nats; it started at 0.",
            "Raise the learning rate or train for more steps.",
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
            "Check the pairs of that step in the step log; clip the norm or lower the learning rate.",
        )


def _evaluation(run: RunRecord) -> Iterator[RunWarning]:
    summary = run.summary
    if not run.evaluated:
        return
    if summary["ties"] == 1:
        yield RunWarning(
            "notice",
            run.label,
            "This policy equals the reference",
            "Every held-out margin is exactly 0.",
            "Expected for the reference itself; otherwise the policy was not trained.",
        )
        return
    yield from _accuracy(run)
    yield from _displacement(run)
    if summary["not_finite"]:
        yield RunWarning(
            "serious",
            run.label,
            "Held-out margins are not finite",
            f"{summary['not_finite']} pairs were left out of every figure.",
            "Check the model's weights for NaN.",
        )


def _accuracy(run: RunRecord) -> Iterator[RunWarning]:
    summary, accuracy = run.summary, run.summary["accuracy"]
    interval = f"{percent(accuracy)} ({percent(summary['accuracy_low'])} to {percent(summary['accuracy_high'])})"
    if summary["accuracy_high"] < 0.5:
        yield RunWarning(
            "serious",
            run.label,
            "Worse than chance on held-out pairs",
            f"Accuracy {interval}.",
            "Check that chosen and rejected are not swapped, in training or in the held-out pairs.",
        )
    elif summary["accuracy_low"] <= 0.5:
        yield RunWarning(
            "serious",
            run.label,
            "Held-out accuracy could be chance",
            f"Its interval covers 50%: {interval}.",
            "Hold out more pairs, or train longer.",
        )
    controlled = summary["length_controlled_accuracy"]
    if controlled is not None and accuracy - controlled > LENGTH_GAP:
        yield RunWarning(
            "notice",
            run.label,
            "Length explains part of the accuracy",
            f"{percent(accuracy)} overall, {percent(controlled)} with equal weight for pairs whose chosen "
            "side is longer and shorter.",
            "Use the length-controlled figure, or a length-normalised method.",
        )
    training = final_mean(run.metrics, ACCURACIES)
    if training is not None and training - accuracy > OVERFIT_GAP and summary["accuracy_high"] >= 0.5:
        yield RunWarning(
            "notice",
            run.label,
            "Training pairs are memorised",
            f"Accuracy {percent(training)} on the last training steps, {percent(accuracy)} held out.",
            "Fewer epochs, a lower learning rate or a larger β.",
        )
    if summary["ties"] > MANY_TIES:
        yield RunWarning(
            "notice",
            run.label,
            "Many margins are exactly zero",
            f"{percent(summary['ties'])} of the held-out pairs tie.",
            "Ties count half. In half precision, a policy may be too close to the reference to tell them apart.",
        )


def _displacement(run: RunRecord) -> Iterator[RunWarning]:
    ratio, half = run.summary["chosen_logratios"], run.summary["chosen_logratios_half_width"]
    if ratio is not None and ratio + (half or 0) < 0:
        yield RunWarning(
            "notice",
            run.label,
            "Chosen completions become less likely",
            f"Their held-out log-ratio is {signed(ratio)} nats on average.",
            "Likelihood displacement (Razin et al., arXiv 2410.08847). Often harmless; where samples get "
            "worse, add an sft term, raise β, or filter near-identical pairs.",
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
