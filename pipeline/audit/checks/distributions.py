"""Histograms of measures: a few dozen bins that count every finite value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

BINS = 30
SAMPLE = 1_000_000
# The outermost bins reach to the extremes, so that a few outliers do not flatten the rest.
_INNER: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "inner": lambda value: value.quantile(0.005),
    "outer": lambda value: value.quantile(0.995),
}
_EXTREMES: dict[str, Callable[[pl.Expr], pl.Expr]] = {"low": pl.Expr.min, "high": pl.Expr.max}


@dataclass(frozen=True)
class Distribution:
    """What to count. Distributions of one `group` are drawn over each other."""

    name: str
    title: str
    unit: str
    value: pl.Expr
    group: str | None = None
    whole: bool = False  # whole numbers: bins have whole edges


_PAIR = (pl.col("chosen_len") > 0) & (pl.col("rejected_len") > 0)
PAIR_DISTRIBUTIONS = (
    Distribution("prompt_len", "prompt", "tokens", pl.col("prompt_len"), whole=True),
    Distribution(
        "chosen_len", "chosen", "tokens", pl.col("chosen_len").replace(0, None), "completion length", whole=True
    ),
    Distribution(
        "rejected_len", "rejected", "tokens", pl.col("rejected_len").replace(0, None), "completion length", whole=True
    ),
    Distribution(
        "length_gap",
        "chosen minus rejected length",
        "tokens",
        pl.when(_PAIR).then(pl.col("chosen_len") - pl.col("rejected_len")),
        whole=True,
    ),
    Distribution("similarity", "similarity of the sides", "Jaccard index", pl.col("similarity")),
    Distribution(
        "chosen_repetition",
        "chosen",
        "share of repeated 4-grams",
        pl.when(pl.col("chosen_len") > 0).then("chosen_repetition"),
        "repetition",
    ),
    Distribution(
        "rejected_repetition",
        "rejected",
        "share of repeated 4-grams",
        pl.when(pl.col("rejected_len") > 0).then("rejected_repetition"),
        "repetition",
    ),
    Distribution(
        "score_gap",
        "chosen minus rejected score",
        "dataset's own scale",
        pl.col("chosen_score") - pl.col("rejected_score"),
    ),
)


def histograms(pairs: pl.LazyFrame, wanted: Sequence[Distribution]) -> list[dict[str, Any]]:
    """One record per distribution that has a value: name, title, unit, group, bins of low, high and count.

    A bin holds low ≤ value < high, the last one its high end too; nulls and non-finite values are in none. Inner edges
    follow the quantiles of an even sample; every value is counted.
    """
    columns = pairs.collect_schema().names()
    known = [each for each in wanted if set(each.value.meta.root_names()) <= set(columns)]
    values = pairs.select(_finite(each.value).alias(each.name) for each in known)
    found = _ranges(values, _EXTREMES) | _ranges(even_sample(values), _INNER)
    edges = {
        each.name: _edges(_spans([each, *_companions(each, known)], found), each.whole)
        for each in known
        if found[f"{each.name}:inner"] is not None
    }
    return [_record(each, edges[each.name], values) for each in known if each.name in edges]


def bin_number(value: pl.Expr, edges: Sequence[float]) -> pl.Expr:
    """How many of the edges, in ascending order, are at or below the value; null stays null."""
    number = pl.lit(pl.Series(edges, dtype=pl.Float64)).search_sorted(value.cast(pl.Float64), side="right")
    return pl.when(value.is_not_null()).then(number)


def _finite(value: pl.Expr) -> pl.Expr:
    number = value.cast(pl.Float64)
    return pl.when(number.is_finite()).then(number)


def even_sample(values: pl.LazyFrame) -> pl.LazyFrame:
    """Every k-th row, so that `SAMPLE` to twice as many are left; all rows of a smaller table.

    The rank of a quantile of a million values is off by about 1 in 2,000; ten million would take ten times longer.
    """
    rows = values.select(pl.len()).collect(engine="streaming").item()
    return values.gather_every(max(1, rows // SAMPLE))


def _ranges(values: pl.LazyFrame, quantities: Mapping[str, Callable[[pl.Expr], pl.Expr]]) -> dict[str, float | None]:
    names = values.collect_schema().names()
    found = values.select(
        quantity(pl.col(name)).alias(f"{name}:{key}") for name in names for key, quantity in quantities.items()
    )
    return found.collect(engine="streaming").row(0, named=True) if names else {}


def _companions(each: Distribution, known: Sequence[Distribution]) -> list[Distribution]:
    return [other for other in known if each.group is not None and other.group == each.group]


def _spans(group: Sequence[Distribution], found: dict[str, Any]) -> tuple[float, float, float, float]:
    """One range for all of a group, so that their bins are the same."""
    spans = [[found[f"{each.name}:{key}"] for key in ("low", "inner", "outer", "high")] for each in group]
    low, inner, outer, high = zip(*(span for span in spans if None not in span), strict=True)
    return min(low), min(inner), max(outer), max(high)


def _edges(span: tuple[float, float, float, float], whole: bool) -> list[float]:
    low, inner, outer, high = span
    step = (outer - inner) / BINS
    if whole:
        step = max(1.0, float(-(-(outer - inner) // BINS)))
    if step <= 0:
        return [low, high if high > low else _just_above(low)]
    inside = sorted({inner + step * number for number in range(BINS + 1)})
    return [low, *(edge for edge in inside if low < edge < high), high if high > low else _just_above(low)]


def _just_above(value: float) -> float:
    return value + max(1.0, abs(value) / 2**20)  # 1e300 + 1 is 1e300


def _record(each: Distribution, edges: list[float], values: pl.LazyFrame) -> dict[str, Any]:
    number = bin_number(pl.col(each.name), edges[1:-1]).alias("bin")
    # One distribution after the other, for polars holds its column of all pairs.
    counted = values.select(number).group_by("bin").len().collect(engine="streaming")
    by_bin = dict(counted.iter_rows())
    bins = [
        {"low": low, "high": high, "count": by_bin.get(place, 0)}
        for place, (low, high) in enumerate(zip(edges, edges[1:], strict=False))
    ]
    group = {} if each.group is None else {"group": each.group}
    return {"name": each.name, "title": each.title, "unit": each.unit, **group, "bins": bins}
