"""What the page of a comparison shows, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scoreonce.pipeline.evaluation.standings import Standings
from scoreonce.pipeline.pages.compare.verdict import Decision


@dataclass(frozen=True)
class TrialRecord:
    """One training: `figures` are those of `evaluation_summary`, empty where it failed."""

    candidate: str
    seed: int
    label: str
    figures: Mapping[str, Any]
    seconds: float
    failure: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Everything one page shows.

    `settings`: by candidate, the varied keys of the run file and `train.method`. `keys`: the varied ones.
    `reference_seconds`: of scoring with the reference, 0 where it was done before.
    """

    standings: Standings
    decision: Decision
    trials: tuple[TrialRecord, ...]
    settings: Mapping[str, Mapping[str, Any]]
    keys: tuple[str, ...] = ()
    reference_seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())

    def of(self, candidate: str) -> list[TrialRecord]:
        """Its trainings that did not fail."""
        return [trial for trial in self.trials if trial.candidate == candidate and trial.failure is None]

    def mean(self, candidate: str, figure: str) -> float:
        """The mean of a figure over its seeds."""
        values = [float(trial.figures[figure] or 0.0) for trial in self.of(candidate)]
        return sum(values) / len(values)

    @property
    def methods(self) -> list[str]:
        """In the order of the candidates."""
        return list(dict.fromkeys(str(each["train.method"]) for each in self.settings.values()))
