"""Summary of `prepare`: counts and lengths, from the tables that it wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

SIDES = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class PreparationSummary:
    """Counts of rows; lengths in tokens over both splits, by side."""

    train: int
    test: int
    by_reason: dict[str, int]
    truncated: dict[str, int]
    boundary_merged: int
    lengths: dict[str, dict[str, float]]
    raw: int  # rows of the dataset; each is in one of the three tables, a graded list perhaps several times

    @property
    def quarantined(self) -> int:
        """Unusable rows; of graded lists also responses and pairs."""
        return sum(self.by_reason.values())

    def manifest(self) -> dict[str, Any]:
        """The same as a part of the manifest."""
        fields = asdict(self)
        counts = {name: fields.pop(name) for name in ("raw", "train", "test", "by_reason")}
        return {"counts": {"quarantined": self.quarantined, **counts}, **fields}


def preparation_summary(
    train: pl.LazyFrame, test: pl.LazyFrame, quarantine: pl.LazyFrame, *, raw: int
) -> PreparationSummary:
    """The summary of two tables of pairs and of the quarantine, made from `raw` rows."""
    pairs = pl.concat([train.with_columns(split=pl.lit("train")), test.with_columns(split=pl.lit("test"))])
    row = (
        pairs.select(
            train=(pl.col("split") == "train").sum(),
            test=(pl.col("split") == "test").sum(),
            boundary_merged=pl.col("boundary_merged").sum(),
            **{f"{side}_truncated": pl.col(f"{side}_truncated").sum() for side in SIDES},
            **{f"{side}_median": pl.col(f"{side}_len").median() for side in SIDES},
            **{f"{side}_p95": pl.col(f"{side}_len").quantile(0.95) for side in SIDES},
            **{f"{side}_max": pl.col(f"{side}_len").max() for side in SIDES},
        )
        .collect(engine="streaming")
        .row(0, named=True)
    )
    reasons = quarantine.group_by("reason").len().sort("len", "reason", descending=[True, False]).collect()
    return PreparationSummary(
        row["train"],
        row["test"],
        dict(reasons.iter_rows()),
        {side: row[f"{side}_truncated"] for side in SIDES},
        row["boundary_merged"],
        {side: {name: row[f"{side}_{name}"] for name in ("median", "p95", "max")} for side in SIDES},
        raw,
    )


def summary_lines(summary: PreparationSummary) -> Iterator[str]:
    """The summary as text, line by line."""
    pairs = summary.train + summary.test
    yield (
        f"{summary.raw:,} rows: {summary.train:,} train pairs, {summary.test:,} test pairs, "
        f"{summary.quarantined:,} quarantined"
    )
    for reason, rows in summary.by_reason.items():
        yield f"  {reason:<32}{rows:>9,}"
    yield f"{'tokens':<12}{'median':>8}{'95 %':>8}{'longest':>9}{'truncated':>18}"
    for side in SIDES:
        lengths = summary.lengths[side]
        cut = f"{summary.truncated[side]:,} ({summary.truncated[side] / pairs:.1%})"
        yield f"  {side:<10}{lengths['median']:>8,.0f}{lengths['p95']:>8,.0f}{lengths['max']:>9,}{cut:>18}"
    if summary.boundary_merged:
        yield (
            f"{summary.boundary_merged:,} pairs ({summary.boundary_merged / pairs:.1%}) were split "
            "where a token would span the end of the prompt"
        )
