"""Findings: how many pairs each check affects, examples, and the pairs with the most findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from scoreonce.pipeline.audit.checks.check import SEVERITIES, Check

EXAMPLES = 5
WORST = 500
WEIGHTS = {"fail": 100.0, "flag": 10.0, "info": 1.0}
IDENTITY = ("pair_id", "row", "split")


def findings(pairs: pl.LazyFrame, checks: Sequence[Check]) -> list[dict[str, Any]]:
    """One record per check, worst severity first, with those that affect no pair; `pairs` has the check columns."""
    counts = pairs.select(pl.len(), *(pl.col(check.name).sum() for check in checks)).collect(engine="streaming")
    found = counts.row(0, named=True)
    ordered = sorted(checks, key=lambda check: SEVERITIES.index(check.severity))
    return [_record(pairs, check, found[check.name], found["len"]) for check in ordered]


def _record(pairs: pl.LazyFrame, check: Check, rows: int, of: int) -> dict[str, Any]:
    return {
        "name": check.name,
        "severity": check.severity,
        "title": check.title,
        "meaning": check.meaning,
        "rows": rows,
        "of": of,
        "share": rows / max(of, 1),
        "column": check.name,
        "fix": check.advice,
        "examples": _examples(pairs, check) if rows else [],
    }


def _examples(pairs: pl.LazyFrame, check: Check) -> list[dict[str, Any]]:
    note = pl.lit("") if check.note is None else check.note.fill_null("")
    other = [] if check.other is None else [pl.col(check.other).alias("other_pair_id")]
    some = pairs.filter(check.name).head(EXAMPLES).select(*IDENTITY, note.cast(pl.String).alias("note"), *other)
    return [
        {key: value for key, value in example.items() if key != "other_pair_id" or value is not None}
        for example in some.collect(engine="streaming").to_dicts()
    ]


def worst(pairs: pl.LazyFrame, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs with the most and the most severe findings, at most `WORST`, highest score first.

    score = Σ weight · (1 − share) over a pair's findings, with weights 100, 10 and 1 for fail, flag and info: a finding
    that nearly all pairs share says little about one of them.
    """
    present = [finding for finding in found if finding["rows"]]
    if not present:
        return []
    weights = {finding["name"]: WEIGHTS[finding["severity"]] * (1 - finding["share"]) for finding in present}
    score = pl.sum_horizontal(pl.col(name).cast(pl.Float64) * weight for name, weight in weights.items())
    names = list(weights)
    top = (
        pairs.select(*IDENTITY, "source", *names, score=score.round(4))
        .filter(pl.col("score") > 0)
        .sort("score", "split", "row", descending=[True, True, False])
        .head(WORST)
        .collect(engine="streaming")
    )
    return [
        {**{key: row[key] for key in (*IDENTITY, "source", "score")}, "findings": [n for n in names if row[n]]}
        for row in top.to_dicts()
    ]
