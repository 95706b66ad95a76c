"""The headline of the report: which run did best, how certain that is, and the table behind it.

Runs are ranked by what they were trained for: the true reward or a judge where there is one, else held-out pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scoreonce.pipeline.evaluation.intervals import Interval
from scoreonce.pipeline.evaluation.summary import paired_difference
from scoreonce.pipeline.pages.numbers import number, percent, points
from scoreonce.pipeline.pages.ranking import Measure, leading
from scoreonce.pipeline.pages.report.data import ReportData, RunRecord, best_first


@dataclass(frozen=True)
class Standing:
    """One row of the table, with the demo's entry about the run if there is one.

    `behind`: how far it is behind the most accurate run on the same pairs, None for that run. `grade`: by what the runs
    are ranked, if known of this one. `tied`: not to be told from the first run by what they are ranked by.
    """

    run: RunRecord
    behind: Mapping[str, Any] | None
    reward: Mapping[str, Any] | None
    grade: Interval | None = None
    tied: bool = False


@dataclass(frozen=True)
class Verdict:
    """A headline, sentences under it, and the standings; `measure` leads them where there is one."""

    headline: str
    sentences: tuple[str, ...]
    standings: tuple[Standing, ...]
    measure: Measure | None = None


def verdict(data: ReportData) -> Verdict:
    """Headline and standings. `behind` is None for the most accurate run and for runs without held-out pairs."""
    by_accuracy = best_first(data.runs)
    accurate = next((run for run in by_accuracy if run.evaluated), None)
    measure = leading(data.demo, data.judgements, [run.label for run in data.runs])
    grades = measure.grades if measure else {}
    order = sorted(by_accuracy, key=lambda run: -grades[run.label].mean if run.label in grades else math.inf)
    rewards = {entry["label"]: entry for entry in data.demo}
    first = grades.get(order[0].label)
    standings = tuple(
        _standing(run, _behind(run, accurate), rewards.get(run.label), grades.get(run.label), measure, first)
        for run in order
    )
    headline, sentences = _none_evaluated(data.runs) if accurate is None else _ranked(accurate, standings)
    best = accurate
    if measure:
        graded, said = _graded(measure, standings)
        best, headline, sentences = order[0], graded, [*said, *(sentences if accurate else [])]
    return Verdict(headline, (*sentences, *_doubted(best)), standings, measure)


def _standing(
    run: RunRecord,
    behind: Mapping[str, Any] | None,
    reward: Mapping[str, Any] | None,
    grade: Interval | None,
    measure: Measure | None,
    first: Interval | None,
) -> Standing:
    if measure is None or grade is None or first is None:
        tied = measure is None and behind is not None and not _is_behind(behind)
    else:
        tied = grade is not first and measure.tied(grade, first)
    return Standing(run, behind, reward, grade, tied)


def _none_evaluated(runs: Sequence[RunRecord]) -> tuple[str, list[str]]:
    count = len(runs)
    trained = f"{count} run{'s' if count > 1 else ''} trained"
    if any(run.summary for run in runs):
        return f"{trained}, no held-out pairs to rank", ["Accuracy needs held-out pairs with a rejected side."]
    return f"{trained}, not evaluated yet", ["There are no held-out results yet: run scoreonce evaluate."]


def _ranked(best: RunRecord, standings: Sequence[Standing]) -> tuple[str, list[str]]:
    summary = best.summary
    share = percent(summary["accuracy"])
    interval = f"95% interval {percent(summary['accuracy_low'])} to {percent(summary['accuracy_high'])}"
    level = [item.run.label for item in standings if item.behind and not _is_behind(item.behind)]
    pairs = f"{number(summary['pairs'])} held-out pairs"
    opening = f"{best.label} ranks {share} of {pairs} as labelled ({interval})."
    if summary["accuracy_low"] <= 0.5:
        return "No run is clearly better than chance", [opening]
    if not any(item.behind for item in standings):
        return f"{best.label} ranks {share} of held-out pairs correctly", [opening]
    if level:
        equal = any(item.behind and item.behind["difference"] == 0 for item in standings)
        rivals = _list(level) if len(level) <= 4 else f"{len(level)} others"
        return "No run is clearly best" if equal else f"{best.label} is ahead, but not clearly", [
            opening,
            f"On the same pairs, {rivals} {'is' if len(level) == 1 else 'are'} tied with it (paired 95% interval).",
        ]
    return f"{best.label} ranks held-out pairs best", [
        opening,
        "Every other run is worse on the same pairs (paired 95% interval).",
    ]


def _doubted(best: RunRecord | None) -> list[str]:
    """What became of the run that leads, where its verdict says more than that it learnt."""
    if best is None or best.verdict.get("severity", "none") == "none":
        return []
    return [f"Verdict on {best.label}: {best.verdict['headline']}."]


def _graded(measure: Measure, standings: Sequence[Standing]) -> tuple[str, list[str]]:
    """Headline and sentences where a true reward or a judge ranks the runs."""
    best, grade = standings[0].run.label, standings[0].grade
    assert grade is not None
    tied = [item.run.label for item in standings if item.tied]
    said = f"{best} has the highest {measure.title}: {measure.with_ends(grade)}"
    if measure.of is not None and not measure.share:
        said += f"; {measure.of_what} has {measure.text(measure.of.mean)}"
    sentences = [f"{said}."]
    if tied:
        names = _list(tied) if len(tied) <= 4 else f"{len(tied)} others"
        sentences.append(f"{names} {'is' if len(tied) == 1 else 'are'} tied with it (95% interval of the difference).")
    if measure.no_better(grade):
        return f"No run is clearly better than {measure.of_what}", sentences
    if tied:
        level = _list([best, *tied]) if len(tied) < 4 else f"{len(tied) + 1} runs"
        return f"{level} are tied for the {measure.title}", sentences
    return f"{best} has the highest {measure.title}", sentences


def _is_behind(gap: Mapping[str, Any]) -> bool:
    return gap["high"] is not None and gap["high"] < 0


def _behind(run: RunRecord, best: RunRecord | None) -> Mapping[str, Any] | None:
    if best is None or run is best or run.pairs is None or best.pairs is None:
        return None
    gap = paired_difference(run.pairs, best.pairs)
    return gap if gap["difference"] is not None else None


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def behind_text(gap: Mapping[str, Any] | None) -> str:
    """`−1.2 (−3.0 to +0.6)` in percentage points, or an empty string."""
    return f"{points(gap['difference'])} ({points(gap['low'])} to {points(gap['high'])})" if gap else ""
