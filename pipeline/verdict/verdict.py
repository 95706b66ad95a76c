"""A verdict: the state that leads, findings beside it, and advice that never says two things about one key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from scoreonce.pipeline.verdict.facts import Facts
from scoreonce.pipeline.verdict.findings import FINDINGS
from scoreonce.pipeline.verdict.rule import Advice, Finding, Rule
from scoreonce.pipeline.verdict.states import STATES

RULES: tuple[Rule, ...] = (*STATES, *FINDINGS)

# Rules that say more than another one, which is then left out.
_SHARPER = {"displaced_by_similar_pairs": "displaced"}


@dataclass(frozen=True)
class Verdict:
    """What became of a run. The advice is that of the state and of the findings, each key once."""

    state: Finding
    findings: tuple[Finding, ...]

    @property
    def all(self) -> tuple[Finding, ...]:
        """The state and the findings."""
        return self.state, *self.findings

    @property
    def advice(self) -> tuple[Advice, ...]:
        """What to do, the state's first."""
        return tuple(each for finding in self.all for each in finding.advice)


def verdict(facts: Facts) -> Verdict:
    """The verdict on a run: the first state that holds, and what holds beside it."""
    state = next(found for rule in STATES if (found := _found(rule, facts)))
    beside = [found for rule in FINDINGS if state.name in rule.beside and (found := _found(rule, facts))]
    less_sharp = {_SHARPER.get(found.name) for found in beside}
    kept = [found for found in beside if found.name not in less_sharp]
    first, *others = _without_repeated_keys([state, *kept])
    return Verdict(first, tuple(others))


def _found(rule: Rule, facts: Facts) -> Finding | None:
    seen = rule.seen(facts)
    if seen is None:
        return None
    advice = (replace(each, text=each.text.format_map(seen.numbers)) for each in rule.advice)
    return Finding(rule, seen.sentence, seen.numbers, tuple(advice))


def _without_repeated_keys(findings: Iterable[Finding]) -> list[Finding]:
    """The same, each key advised on by the first finding that does: what leads decides."""
    kept, told = [], set[str]()
    for finding in findings:
        kept.append(replace(finding, advice=tuple(each for each in finding.advice if each.key not in told)))
        told |= {each.key for each in finding.advice}
    return kept
