"""What the page of a comparison shows, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scoreonce.pipeline.evaluation.standings import Standings
from scoreonce.pipeline.pages.compare.verdict import Decision
from scoreonce.pipeline.pages.ranking import HELD_OUT_ACCURACY, Measure


@dataclass(frozen=True)
class Trial:
    """One training of a candidate, under its label.

    `figures` are those of `evaluation_summary`, empty where it failed, for the reason in `failure`. `seconds` are those
    of its steps, `memory` their peak in bytes, where it is known. `along` has a row for each evaluation while training,
    of the columns of `HeldOutStep`; none where `evaluate.every` asks for none.
    """

    candidate: str
    seed: int
    label: str
    figures: Mapping[str, Any]
    seconds: float
    failure: str | None = None
    along: Sequence[Mapping[str, Any]] = ()
    memory: int | None = None


def of_candidate(trials: Sequence[Trial], candidate: str) -> list[Trial]:
    """The trainings of a candidate that did not fail."""
    return [trial for trial in trials if trial.candidate == candidate and trial.failure is None]


def mean(trials: Sequence[Trial], candidate: str, figure: str) -> float:
    """The mean of a figure over a candidate's seeds, of which one at least did not fail; 0 where it is not known."""
    values = [float(trial.figures[figure] or 0.0) for trial in of_candidate(trials, candidate)]
    return sum(values) / len(values)


@dataclass(frozen=True)
class Comparison:
    """Everything one page shows.

    `settings`: by candidate, the varied keys of the run file and `train.method`. `keys`: the varied ones.
    `reference_seconds`: of scoring with the reference, 0 where it was done before. `measure`: what the standings are
    ranked by, with the grades by label where it is not held-out accuracy; `partly` says which measure would lead, were
    it known of all trainings. `notes`: settings that do not vary for a method; `remarks`: sentences on the decision.
    """

    standings: Standings
    decision: Decision
    trials: tuple[Trial, ...]
    settings: Mapping[str, Mapping[str, Any]]
    keys: tuple[str, ...] = ()
    reference_seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())
    remarks: tuple[str, ...] = field(default=())
    measure: Measure = HELD_OUT_ACCURACY
    partly: str = ""

    @property
    def is_graded(self) -> bool:
        """Whether a true reward or a judge leads, and not held-out accuracy."""
        return self.measure is not HELD_OUT_ACCURACY

    def grade(self, trial: Trial) -> float | None:
        """What the standings are ranked by, of one training that did not fail; None of one that was not judged."""
        if not self.is_graded:
            return float(trial.figures["accuracy"])
        grade = self.measure.grades.get(trial.label)
        return None if grade is None else grade.mean

    @property
    def methods(self) -> list[str]:
        """In the order of the candidates."""
        return list(dict.fromkeys(str(each["train.method"]) for each in self.settings.values()))
