"""audit: what is in the pairs, before anything is trained on them, and what the reference makes of them.

Reads the files of `prepare`, and those of `score` where they are there; prints a table and writes `<out>/audit.json`.
Changes nothing in the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import polars as pl

from scoreonce.pipeline.auditing import (
    PAIR_CHECKS,
    REFERENCE_CHECKS,
    Finding,
    Measure,
    both_splits,
    findings,
    pair_measures,
    reference_measures,
)
from scoreonce.pipeline.quarantine import REASONS
from scoreonce.stages.config import Run
from scoreonce.stages.files import write_json
from scoreonce.stages.layout import SPLITS, Layout
from scoreonce.stages.prepared import require_prepared

MARKS = {"fail": "FAIL", "flag": "flag", "info": "info"}


def run(run: Run) -> None:
    """Audit the prepared pairs of a run."""
    layout = Layout.of(run)
    counts = require_prepared(layout)["counts"]
    pairs = both_splits(*(pl.scan_parquet(layout.pairs(split)) for split in SPLITS))
    found, measured = findings(pairs, PAIR_CHECKS), pair_measures(pairs)
    if layout.reference_manifest.is_file():
        scored = _with_reference(pairs, layout)
        found, measured = found + findings(scored, REFERENCE_CHECKS), measured + reference_measures(scored)
    path = layout.out / "audit.json"
    write_json(
        path,
        {
            "format": 1,
            "counts": counts,
            "findings": [asdict(finding) for finding in found],
            "measures": [asdict(measure) for measure in measured],
        },
    )
    print(*audit_lines(counts, found, measured), f"Written to {path}", sep="\n")


def _with_reference(pairs: pl.LazyFrame, layout: Layout) -> pl.LazyFrame:
    wanted = ("pair_id", "ref_chosen_logps", "ref_rejected_logps", "ref_margin")
    reference = pl.concat([pl.scan_parquet(layout.reference(split)).select(wanted) for split in SPLITS])
    return pairs.join(reference.unique("pair_id"), on="pair_id", how="left", maintain_order="left")


def audit_lines(counts: dict[str, Any], found: list[Finding], measured: list[Measure]) -> Iterator[str]:
    """The audit for people: what was found, worst first, then the measures."""
    yield (
        f"{counts['train']:,} train pairs, {counts['test']:,} test pairs, {counts['quarantined']:,} rows in quarantine"
    )
    for reason, rows in counts["by_reason"].items():
        yield _line("kept out", reason, f"{rows:,}", "", REASONS.get(reason, ""))
    for severity, mark in MARKS.items():
        for finding in found:
            if finding.severity == severity and finding.rows:
                rows = ", ".join(str(example["row"]) for example in finding.examples)
                meaning = f"{finding.meaning} (row {rows})"
                yield _line(mark, finding.name, f"{finding.rows:,}", f"{finding.share:.2%}", meaning)
    absent = [finding.name for finding in found if not finding.rows]
    if absent:
        yield f"  {'none':<10}{', '.join(absent)}"
    for measure in measured:
        yield _line(
            "measured", measure.name, "–" if measure.value is None else f"{measure.value:.4g}", "", measure.meaning
        )


def _line(kind: str, name: str, number: str, share: str, meaning: str) -> str:
    return f"  {kind:<10}{name:<32}{number:>10}{share:>9}  {meaning}"
