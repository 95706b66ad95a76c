"""The rules of the pairs' schema as findings: a table that breaks one was changed after `prepare`, or by a bug."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from scoreonce.pipeline.audit.checks.check import Check
from scoreonce.schemas.tables import Pair

PREFIX = "rule_"
_SAYS = {
    "nullability": "is null but must not be",
    "min": "is below its minimum",
    "max": "is above its maximum",
    "nan": "is NaN",
    "inf": "is infinite",
}


def broken_rules(pairs: pl.DataFrame, places: pl.Series) -> pl.DataFrame | None:
    """Which pairs break which rule of the schema `Pair`: columns `place` and a boolean per broken rule; None if none.

    `places` numbers the pairs; the frame may have more columns than the schema.
    """
    _, failure = Pair.filter(pairs.select(Pair.column_names()), cast=True)
    broken = list(failure.counts())
    if not broken:
        return None
    numbered = pairs.select(Pair.column_names()).with_columns(place=places)
    # Each rule is about one row, so equal rows break the same ones.
    details = failure.details().select(*Pair.column_names(), *(pl.col(rule) == "invalid" for rule in broken)).unique()
    found = numbered.join(details, on=Pair.column_names(), how="inner", nulls_equal=True)
    return found.select("place", *(pl.col(rule).alias(column_name(rule)) for rule in broken))


def column_name(rule: str) -> str:
    """The rule as a column and a finding: `rule_chosen_len_min`."""
    return PREFIX + rule.replace("|", "_")


def with_rules(pairs: pl.DataFrame, broken: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The pairs with a boolean column for every rule that any pair breaks; `broken` numbers them from 0."""
    if not broken:
        return pairs
    found = pl.concat(broken, how="diagonal")
    rules = [name for name in found.columns if name != "place"]
    joined = pairs.with_columns(place=pl.int_range(pl.len(), dtype=pl.Int64)).join(
        found, on="place", how="left", maintain_order="left"
    )
    return joined.drop("place").with_columns(pl.col(rule).fill_null(value=False) for rule in rules)


def rule_checks(columns: Sequence[str]) -> tuple[Check, ...]:
    """A check for each rule that any pair breaks."""
    return tuple(_check(name) for name in columns if name.startswith(PREFIX))


def _check(name: str) -> Check:
    rule = name.removeprefix(PREFIX)
    column, _, kind = rule.rpartition("_")
    says = f"{column} {_SAYS[kind]}" if kind in _SAYS else rule.replace("_", " ") + " does not hold"
    return Check(
        name,
        "fail",
        f"Damaged table: {says}",
        "The table of pairs breaks a rule of its own schema: it was changed after `scoreonce prepare`.",
        pl.col(name),
        "Run `scoreonce prepare` again: it rewrites the table.",
    )
