"""What a comparison allows to decide, and why; the statistics are those of `pipeline.evaluation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scoreonce.pipeline.evaluation.intervals import CHANCE
from scoreonce.pipeline.evaluation.standings import Standing, Standings
from scoreonce.pipeline.pages.numbers import fixed, signed
from scoreonce.pipeline.pages.ranking import HELD_OUT_ACCURACY, Measure

SHARE = "train.share"  # of the pairs: more of them is no discovery


@dataclass(frozen=True)
class Decision:
    """The candidate to take, None where the data cannot tell, and why."""

    recommended: str | None
    reason: str


def decision(found: Standings, drift: Mapping[str, float], measure: Measure = HELD_OUT_ACCURACY) -> Decision:
    """Which candidate to take, by the measure that `found` is ranked by.

    `drift`, by candidate: how far the policy moved from the reference, in nats per held-out token. Of the best and
    those within one standard error of it the one that moved least is taken (the rule of Breiman et al. 1984, with
    drift in the place of complexity). None is where the best is no better than chance, or than the reference.
    """
    said = _Words(found, measure)
    best = found.rows[0]
    tied = [row for row in found.rows if row.tied]
    if measure.no_better(best.leads):
        return Decision(None, f"The data cannot tell: {said.best}, {said.no_better}.{_seeds(found, clear=False)}")
    if len(tied) == 1:
        return Decision(best.name, said.ahead() + _seeds(found, clear=True))
    near = [row for row in tied if row.near]
    least = min(near, key=lambda row: abs(drift[row.name]))
    names = "All" if len(tied) == len(found.rows) else f"{len(tied)} of {len(found.rows)}"
    reason = f"{names} candidates are tied: {said.what_ties}. "
    if len(near) == 1:
        reason += f"{best.name} is ahead, with {said.of(best)}, and no other is within one standard error of it."
    else:
        reason += (
            f"Of the {len(near)} within one standard error of the best, {least.name} moved least from the reference, "
            f"{signed(drift[least.name], 3)} nats per token, with {said.of(least)}."
        )
    return Decision(least.name, f"{reason}{said.pairs_needed()}{_seeds(found, clear=False)}")


def remarks(found: Standings, settings: Mapping[str, Mapping[str, Any]], chosen: Decision) -> list[str]:
    """What to know before the decision is used: a value at the end of those compared, and candidates below chance.

    `settings`, by candidate: `train.method` and the varied keys.
    """
    leader = chosen.recommended or found.rows[0].name
    said = [_at_an_end(leader, key, value, settings) for key, value in settings[leader].items()]
    below = [row.name for row in found.rows if row.accuracy.high < CHANCE]
    if below:
        said.append(
            f"Below chance on the held-out pairs: {', '.join(below)}. A rate that is too high or a β that does not "
            "suit the method is the usual cause; so are labels that are the wrong way round."
        )
    return [each for each in said if each is not None]


def _at_an_end(name: str, key: str, value: Any, settings: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Of a number that was varied: whether a smaller or a larger one may be better than all that were compared."""
    method = settings[name]["train.method"]
    values = [own[key] for own in settings.values() if own["train.method"] == method and key in own]
    if key == SHARE or not all(type(each) in (int, float) for each in values) or min(values) == max(values):
        return None
    if value not in (min(values), max(values)):
        return None
    end, beyond = ("smallest", "smaller") if value == min(values) else ("largest", "larger")
    return f"{name} has the {end} {key.removeprefix('train.')} of those compared: a {beyond} one may be better."


def _seeds(found: Standings, *, clear: bool) -> str:
    """What more seeds would tell: of one always, of two where the data do not decide."""
    fewest = min(row.seeds for row in found.rows)
    if fewest == 1:
        return " With one seed it is unknown how much another would change; --seeds 3 shows it."
    if fewest == 2 and not clear:
        return " With two seeds the intervals are wide; a third seed would say more: --seeds 3."
    return ""


@dataclass(frozen=True)
class _Words:
    """How a comparison is told: by held-out accuracy over pairs, or by another measure."""

    found: Standings
    measure: Measure

    @property
    def by_accuracy(self) -> bool:
        return self.measure is HELD_OUT_ACCURACY

    @property
    def best(self) -> str:
        best = self.found.rows[0]
        grade = self.measure.with_ends(best.leads)
        return (
            f"{best.name} is best with {grade}"
            if self.by_accuracy
            else f"{best.name} has the highest {self.measure.title}, {grade}"
        )

    @property
    def no_better(self) -> str:
        if self.by_accuracy:
            return f"which chance alone would reach, over {self.found.pairs:,} held-out pairs"
        assert self.measure.of is not None
        level = "" if self.measure.share else f", with {self.measure.text(self.measure.of.mean)}"
        return f"not clearly better than {self.measure.of_what}{level}"

    @property
    def what_ties(self) -> str:
        if self.by_accuracy:
            return f"{self.found.pairs:,} held-out pairs do not tell them apart"
        return f"the {self.measure.title} does not tell them apart"

    def of(self, row: Standing) -> str:
        """What a candidate is ranked by."""
        grade = self.measure.with_ends(row.leads)
        return grade if self.by_accuracy else f"a {self.measure.title} of {grade}"

    def ahead(self) -> str:
        """The best, and by how much it is ahead of the second."""
        said = self.best + (f" over {self.found.pairs:,} held-out pairs" if self.by_accuracy else "")
        if len(self.found.rows) == 1:
            return f"{said}; there is nothing to compare it with."
        second = self.found.rows[1]
        assert second.behind is not None
        gap, low, high = (self._gap(each) for each in (second.behind.mean, second.behind.low, second.behind.high))
        unit = f" {self.measure.unit}" if self.measure.unit else ""
        return f"{said}, {gap}{unit} ahead of {second.name} ({low} to {high})."

    def pairs_needed(self) -> str:
        """How many pairs would tell the first two apart, were their difference the true one, and seeds no matter."""
        first, second = self.found.rows[:2]
        behind = second.behind
        if not self.by_accuracy or behind is None or behind.mean <= 0 or first.seeds > 1 or second.seeds > 1:
            return ""
        needed = self.found.pairs * ((behind.mean - behind.low) / behind.mean) ** 2
        if needed > 1e7:
            return ""
        return f" {needed:,.0f} pairs would tell the first two apart if they differ by {self._gap(behind.mean)} points."

    def _gap(self, value: float) -> str:
        return fixed(100 * value, 1) if self.measure.share else fixed(value)
