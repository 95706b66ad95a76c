"""The audit as text for a terminal: findings, worst first, then shortcuts, then measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scoreonce.pipeline.text.quarantine import REASONS

_MARKS = {"fail": "ERROR", "flag": "warning", "info": "note"}


def audit_lines(audit: Mapping[str, Any]) -> Iterator[str]:
    """The lines to print."""
    counts, reasons = audit["data"]["counts"], audit["data"]["quarantined_by_reason"]
    yield (
        f"{counts['train']:,} train pairs, {counts['test']:,} test pairs, {counts['quarantined']:,} rows in quarantine"
    )
    for reason, rows in reasons.items():
        yield _line("excluded", reason, f"{rows:,}", "", REASONS.get(reason, ""))
    for finding in audit["findings"]:
        if finding["rows"]:
            rows = ", ".join(str(example["row"]) for example in finding["examples"][:3])
            yield _line(
                _MARKS[finding["severity"]],
                finding["name"],
                f"{finding['rows']:,}",
                f"{finding['share']:.2%}",
                f"{finding['title']} (row {rows})",
            )
    absent = [finding["name"] for finding in audit["findings"] if not finding["rows"]]
    if absent:
        yield f"  {'none':<10}{', '.join(absent)}"
    for shortcut in audit["shortcuts"]:
        if shortcut["source"] is None:
            yield _line(
                "predicts",
                shortcut["name"],
                f"{shortcut['auc']:.3f}",
                "",
                f"AUC of “{shortcut['title']}” for the label, {shortcut['low']:.3f} to {shortcut['high']:.3f}",
            )
    for name, value in audit["measures"].items():
        yield _line("measured", name, f"{value:.4g}", "", "")
    for what in audit["not_judged"]:
        yield f"  not checked: {what}"


def _line(kind: str, name: str, number: str, share: str, meaning: str) -> str:
    return f"  {kind:<10}{name:<42}{number:>10}{share:>9}  {meaning}".rstrip()
