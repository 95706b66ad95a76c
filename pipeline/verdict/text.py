"""A verdict as a paragraph and as plain values, and the rules as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from scoreonce.pipeline.pages.numbers import shown, upper_first
from scoreonce.pipeline.verdict.rule import Finding, Rule
from scoreonce.pipeline.verdict.verdict import Verdict

FORMAT = 1


def headline(found: Verdict) -> str:
    """The state in a few words, and the findings after it."""
    return "; ".join(each.title for each in found.all)


def paragraph(found: Verdict) -> str:
    """Headline, what was seen, and what to do, in full sentences."""
    seen = " ".join(filter(None, (each.seen for each in found.all)))
    return " ".join(filter(None, (f"{upper_first(headline(found))}.", seen, advised(found))))


def advised(found: Verdict) -> str:
    """What to do; an empty string where nothing is."""
    todo = [each.text for each in found.advice]
    return f"To do: {'; '.join(todo)}." if todo else ""


def document(found: Verdict) -> dict[str, Any]:
    """The verdict as JSON: state, headline, paragraph, and the findings with rule and advice, the state first."""
    return {
        "format": FORMAT,
        "state": found.state.name,
        "severity": found.state.rule.severity,
        "headline": headline(found),
        "paragraph": paragraph(found),
        "findings": [_entry(each) for each in found.all],
    }


def _entry(finding: Finding) -> dict[str, Any]:
    rule = finding.rule
    return {
        "name": rule.name,
        "title": finding.title,
        "seen": finding.seen,
        "numbers": dict(finding.numbers),
        "holds": rule.holds,
        "threshold": rule.threshold,
        "unit": rule.unit,
        "source": rule.source,
        "advice": [{"key": each.key, "direction": each.direction, "text": each.text} for each in finding.advice],
    }


def markdown(rules: Iterable[Rule]) -> str:
    """A table with a row for each rule: name, when it holds, threshold with its unit, what to do, source."""
    lines = ["| rule | holds where | threshold | to do | source |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(_row(rule) for rule in rules)])


def _row(rule: Rule) -> str:
    threshold = "" if rule.threshold is None else f"{shown(rule.threshold)} {rule.unit}"
    return f"| `{rule.name}` | {rule.holds} | {threshold} | {_todo(rule)} | {rule.source} |"


def _todo(rule: Rule) -> str:
    advice: Sequence[str] = [each.text.replace(":.2g}", "}") for each in rule.advice]
    return "; ".join(advice)
