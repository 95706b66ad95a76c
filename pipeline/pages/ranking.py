"""What runs are ranked by, in reports and comparisons: the true reward, else a judge, else held-out accuracy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from scoreonce.pipeline.evaluation.intervals import CHANCE, Interval, difference
from scoreonce.pipeline.pages.numbers import fixed, is_number, percent, points, signed
from scoreonce.schemas.samples import REFERENCE


@dataclass(frozen=True)
class JudgementRecord:
    """One judgement: the fields of its manifest, and rows of `SampleScore`, None where the judge only compares."""

    name: str
    label: str
    against: str | None
    judge: Mapping[str, Any]
    figures: Mapping[str, Any]
    scores: pl.DataFrame | None = None


@dataclass(frozen=True)
class Measure:
    """Who says how good each model is: `grades` by label. `of` is the reference's, or what chance would give."""

    title: str
    grades: Mapping[str, Interval]
    of: Interval | None = None
    of_what: str = "the reference"
    share: bool = False  # shown as percentages

    @property
    def column(self) -> str:
        """Its name in a table that is saved."""
        return self.title.replace("’s", "").replace(" ", "_")

    @property
    def unit(self) -> str:
        """Of differences; an empty string where values have none."""
        return "points" if self.share else ""

    def text(self, value: float) -> str:
        """A value in its unit."""
        return percent(value) if self.share else fixed(value)

    def with_ends(self, grade: Interval) -> str:
        """A grade with both ends of its interval."""
        return f"{self.text(grade.mean)} ({self.text(grade.low)} to {self.text(grade.high)})"

    def difference(self, gap: float) -> str:
        """A difference of two values, signed."""
        return points(gap) if self.share else signed(gap)

    def tied(self, grade: Interval, best: Interval) -> bool:
        """Whether the 95 % interval of the difference has zero in it, samples taken as independent."""
        return difference(best, grade).low <= 0

    def no_better(self, grade: Interval) -> bool:
        """Whether a grade is not clearly above the reference's, or chance; False where neither is known."""
        return self.of is not None and self.tied(self.of, grade)


HELD_OUT_ACCURACY = Measure("held-out accuracy", {}, Interval(CHANCE, CHANCE, CHANCE), "chance", share=True)


def named(label: str) -> str:
    """A label within a sentence: that of the reference is no name."""
    return "the reference" if label == REFERENCE else label


def leading(
    demo: Sequence[Mapping[str, Any]], judgements: Sequence[JudgementRecord], labels: Sequence[str]
) -> Measure | None:
    """The measure by which these runs are ranked; None where neither a true reward nor a judge knows any of them.

    Of several judges, or several that were compared with, the one that knows most of the runs, win rates first.
    """
    reward = of_rewards(demo)
    found = [reward] if reward else [*_win_rates(judgements), *_scores(judgements)]

    def known(measure: Measure) -> int:
        return sum(label in measure.grades for label in labels)

    return max(filter(known, found), key=known, default=None)


def leading_all(
    demo: Sequence[Mapping[str, Any]], judgements: Sequence[JudgementRecord], labels: Sequence[str]
) -> tuple[Measure | None, str]:
    """`leading`, where it knows every run; else None, with a sentence that says how many it knows, if any."""
    found = leading(demo, judgements, labels)
    known = sum(label in found.grades for label in labels) if found else 0
    if found is None or known == len(labels):
        return found, ""
    return None, f"The {found.title} is known of {known:,} of {len(labels):,} trainings; it leads once it is of all."


def against_reference(
    demo: Sequence[Mapping[str, Any]], judgements: Sequence[JudgementRecord], label: str
) -> Measure | None:
    """What says whether this model is better than the reference: true reward, win rate against it, or score."""
    found = [of_rewards(demo), *_win_rates(judgements), *_scores(judgements)]
    fit = (each for each in found if each and each.of is not None and each.of_what == named(REFERENCE))
    return next((each for each in fit if label in each.grades), None)


def of_rewards(demo: Sequence[Mapping[str, Any]]) -> Measure | None:
    """The demo's true rewards; None where it has none."""
    grades = {
        entry["label"]: Interval(entry["true_reward_mean"], entry["true_reward_low"], entry["true_reward_high"])
        for entry in demo
        if is_number(entry.get("true_reward_mean"))
    }
    return Measure("true reward", grades, grades.get(REFERENCE)) if grades else None


def of_scores(judgements: Sequence[JudgementRecord]) -> Measure | None:
    """The scores of the judge that scored most labels; None where none scores."""
    return max(_scores(judgements), key=lambda each: len(each.grades), default=None)


def of_win_rates(judgements: Sequence[JudgementRecord]) -> Measure | None:
    """The win rates of most labels against the same samples by one judge; None where nothing was compared."""
    return max(_win_rates(judgements), key=lambda each: len(each.grades), default=None)


def _scores(judgements: Sequence[JudgementRecord]) -> Iterator[Measure]:
    for group in _groups((_who(each), each) for each in judgements if each.figures.get("scores")):
        grades = {
            row["label"]: Interval(row["score"], row["score_low"], row["score_high"])
            for each in group
            for row in each.figures["scores"]
            if is_number(row["score"])
        }
        if grades:
            yield Measure("judge’s score", grades, grades.get(REFERENCE))


def _win_rates(judgements: Sequence[JudgementRecord]) -> Iterator[Measure]:
    compared = [each for each in judgements if (each.figures.get("comparison") or {}).get("win_rate")]
    for group in _groups((f"{_who(each)} {each.against}", each) for each in compared):
        rates = {each.label: each.figures["comparison"]["win_rate"] for each in group}
        grades = {label: Interval(rate["rate"], rate["low"], rate["high"]) for label, rate in rates.items()}
        against = named(str(group[0].against))
        yield Measure(f"win rate against {against}", grades, Interval(CHANCE, CHANCE, CHANCE), against, share=True)


def _groups(keyed: Iterator[tuple[str, JudgementRecord]]) -> list[list[JudgementRecord]]:
    groups: dict[str, list[JudgementRecord]] = {}
    for key, each in keyed:
        groups.setdefault(key, []).append(each)
    return list(groups.values())


def _who(each: JudgementRecord) -> str:
    return json.dumps(each.judge, sort_keys=True, default=str)


def judge_name(judge: Mapping[str, Any]) -> str:
    """Who judged, in a few words."""
    named = [str(judge[key]) for key in ("reward_model", "function", "endpoint") if judge.get(key)]
    model = [str(judge["model"])] if judge.get("model") else []
    return ", ".join([*model, *named]) or "a judge"
