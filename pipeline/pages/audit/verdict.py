"""The headline and summary of the audit page: whether these pairs can be trained on, and what to do first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scoreonce.pipeline.pages.audit.shortcuts import is_sure, strength
from scoreonce.pipeline.pages.numbers import fixed, is_number, number, percent

WEAK = 0.05
NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """A headline and the sentences under it."""

    headline: str
    sentences: tuple[str, ...]


def verdict(audit: Mapping[str, Any], affected: Mapping[str, int]) -> Verdict:
    """Headline and summary. `affected` counts the pairs with any finding of a severity, where that is known."""
    counts = audit["data"]["counts"]
    pairs = counts["train"] + counts["test"]
    if not pairs:
        return Verdict("No pairs to train on", (_quarantined(counts),))
    found = {severity: present(audit, severity) for severity in ("fail", "flag", "info")}
    sentences = (_affected(found, affected, pairs), _first(found), _shortcut(audit["shortcuts"]), _quarantined(counts))
    return Verdict(_headline(found), tuple(sentence for sentence in sentences if sentence))


def present(audit: Mapping[str, Any], severity: str) -> list[Mapping[str, Any]]:
    """The findings of one severity that affect any row, most rows first."""
    findings = [finding for finding in audit["findings"] if finding["severity"] == severity and finding["rows"]]
    return sorted(findings, key=lambda finding: -finding["rows"])


def _headline(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    fails, flags = len(found["fail"]), len(found["flag"])
    if fails:
        return f"{_count(fails, 'error')} to fix before training"
    if flags:
        return f"No errors; {_count(flags, 'warning').lower()} to review"
    return "No errors or warnings"


def _affected(found: Mapping[str, Sequence[Mapping[str, Any]]], affected: Mapping[str, int], pairs: int) -> str:
    severity = "fail" if found["fail"] else "flag"
    names = [_lower(finding["title"]) for finding in found[severity]]
    if not names:
        return f"{number(pairs)} pairs were checked."
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    listed = _list([*names[:NAMED], *more])
    if severity not in affected:
        return f"Among {number(pairs)} pairs: {listed}."
    share = percent(affected[severity] / pairs) if affected[severity] * 1000 >= pairs else "under 0.1%"
    kind = "an error" if severity == "fail" else "a warning"
    return f"{number(affected[severity])} of {number(pairs)} pairs ({share}) have {kind}: {listed}."


def _first(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    worst = next(iter(found["fail"]), None)
    return f"Start here: {worst['fix']}" if worst and worst["fix"] else ""


def _shortcut(shortcuts: Sequence[Mapping[str, Any]]) -> str:
    overall = [entry for entry in shortcuts if entry["source"] is None and is_number(entry["auc"])]
    if not overall:
        return ""
    sure = [entry for entry in overall if is_sure(entry)]
    top = max(sure or overall, key=strength)
    figures = f"AUC {fixed(top['auc'])} ({fixed(top['low'])} to {fixed(top['high'])})"
    title = f"“{top['title']}”"
    if not sure:
        return f"No shortcut predicts the label; the strongest is {title}, {figures}."
    if strength(top) < WEAK:
        return f"No strong shortcut: the strongest, {title}, barely predicts the label, {figures}."
    away = ", in reverse" if top["auc"] < 0.5 else ""
    return f"The strongest shortcut is {title}: it alone predicts the label with {figures}{away}."


def _quarantined(counts: Mapping[str, Any]) -> str:
    rows = counts["quarantined"]
    if not rows:
        return ""
    verb = "row is unusable and was" if rows == 1 else "rows are unusable and were"
    return f"{number(rows)} of {number(counts['raw'])} {verb} quarantined."


def _count(amount: int, noun: str) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    # No line break between number and noun: a headline of two lines would break there.
    return f"{words[amount] if amount < len(words) else amount}\N{NO-BREAK SPACE}{noun}{'s' if amount != 1 else ''}"


def _lower(title: str) -> str:
    """A title within a sentence; `EOS missing` keeps its capitals."""
    return title[:1].lower() + title[1:] if not title[1:2].isupper() else title


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
