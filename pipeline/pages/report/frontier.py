"""What a judge says of each model's samples against the model's KL from the reference, with what either could reach
otherwise: the best of n completions of the reference, and each policy mixed with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from scoreonce.pipeline.evaluation.intervals import Interval
from scoreonce.pipeline.pages.ranking import JudgementRecord, Measure, named, of_scores, of_win_rates
from scoreonce.pipeline.pages.report.samples import SampleRecord
from scoreonce.pipeline.samples import best_of_n
from scoreonce.pipeline.samples.figures import kl
from scoreonce.schemas.samples import REFERENCE, policy_label


@dataclass(frozen=True)
class Frontier:
    """Models by KL and by a measure, keyed as the demo's entries are.

    `lines` has for each policy with realigned samples its labels, from the reference on, by the weight of the policy.
    """

    measure: Measure
    entries: list[dict[str, Any]]
    best_of_n: list[dict[str, Any]]
    lines: list[list[str]]


def frontier(samples: Sequence[SampleRecord], judgements: Sequence[JudgementRecord]) -> Frontier | None:
    """The models that a judge knows and whose samples estimate their KL; None where there are fewer than two."""
    measure = of_scores(judgements) or of_win_rates(judgements)
    if measure is None:
        return None
    grades = {**measure.grades, **(_reference(measure) if measure.share else {})}
    known = [each for each in samples if each.label in grades and each.manifest.get("whole_distribution", True)]
    entries = [
        {
            "label": each.label,
            "true_reward_mean": grades[each.label].mean,
            "true_reward_low": grades[each.label].low,
            "true_reward_high": grades[each.label].high,
            "kl_mean": distance,
        }
        for each in known
        if (distance := _kl(each)) is not None
    ]
    if len(entries) < 2:
        return None
    return Frontier(measure, entries, [] if measure.share else _best_of_n(judgements), _lines(known, entries))


def _reference(measure: Measure) -> dict[str, Interval]:
    """Against its own samples the reference would win half."""
    return {REFERENCE: measure.of} if measure.of is not None and measure.of_what == named(REFERENCE) else {}


def _kl(each: SampleRecord) -> float | None:
    if each.label == REFERENCE:
        return 0.0
    found = kl(each.samples)
    return found[0].mean if found else None


def _lines(known: Sequence[SampleRecord], entries: Sequence[dict[str, Any]]) -> list[list[str]]:
    drawn = {entry["label"] for entry in entries}
    weights: dict[str, dict[str, float]] = {}
    for each in known:
        weight = each.manifest.get("realigned")
        if each.label in drawn and each.label != REFERENCE:
            weights.setdefault(policy_label(each.label), {})[each.label] = 1.0 if weight is None else weight
    start = [REFERENCE] if REFERENCE in drawn else []
    return [[*start, *sorted(line, key=lambda label: line[label])] for line in weights.values() if len(line) > 1]


def _best_of_n(judgements: Sequence[JudgementRecord]) -> list[dict[str, Any]]:
    """The curve of the reference's completions, where a judge scored several of each prompt."""
    tables = [each.scores.filter(pl.col("label") == REFERENCE) for each in judgements if each.scores is not None]
    scored = next((table.drop_nulls("score") for table in tables if table.height), None)
    if scored is None or scored.height == scored["prompt_id"].n_unique():
        return []
    rewards = {prompt: rows["score"].to_list() for (prompt,), rows in scored.group_by("prompt_id", maintain_order=True)}
    return [point.row() for point in best_of_n.curve(rewards)]
