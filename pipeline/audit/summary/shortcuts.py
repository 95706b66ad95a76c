"""Shortcuts: how well a trait other than quality predicts the label by itself, as AUC with its interval.

A pair is shown in both orders: score d = f(chosen) − f(rejected) with label 1, and −d with label 0. The AUC of that
classifier is the mean of h(d) = P(D > −d) + ½ P(D = −d), D the score of a random pair. Its variance is DeLong's
(DeLong, DeLong and Clarke-Pearson 1988): both structural components of a pair are h(d), so each pair counts 2 h(d);
they are summed by prompt first, because pairs of one prompt are not independent (Obuchowski 1997). 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.pipeline.evaluation.intervals import Z95

LARGEST_SOURCES = 30
LEAST_PAIRS = 20  # of a source; with fewer the interval is too wide

Whole = npt.NDArray[np.signedinteger[Any]]
Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Trait:
    """A trait of a completion; `difference` is the chosen side's minus the rejected side's, a whole number."""

    name: str
    title: str
    difference: pl.Expr


def _gap(feature: str) -> pl.Expr:
    return pl.col(f"chosen_{feature}").cast(pl.Int64) - pl.col(f"rejected_{feature}").cast(pl.Int64)


TRAITS = (
    Trait("length", "more tokens", _gap("len")),
    Trait("markdown", "more bold, headings and code fences", _gap("markdown")),
    Trait("list", "more list items", _gap("list_items")),
    Trait("refusal", "refuses", _gap("refuses")),
    Trait("names_itself", "says which model it is", _gap("names_itself")),
    Trait("truncation", "was truncated", _gap("truncated")),
    Trait(
        "position",
        "comes first in the dataset",
        pl.when(pl.col("chosen_position") == 1).then(1).when(pl.col("chosen_position") == 2).then(-1),
    ),
    Trait("model", "is by the model that wins more often", pl.col("model_lead")),
)


def shortcuts(pairs: pl.LazyFrame) -> list[dict[str, Any]]:
    """One record per trait and source (source None: all pairs): auc, low, high, pairs, decided, wins.

    `decided`: pairs whose sides differ in the trait; `wins`: share of these whose chosen side has more of it. Pairs
    without both sides are left out, and so are traits whose columns are missing.
    """
    columns = pairs.collect_schema().names()
    sides = [name for name in ("chosen_id", "rejected_id") if name in columns]
    known = [trait for trait in TRAITS if set(trait.difference.meta.root_names()) <= set(columns)]
    # Narrow columns, for these are of all pairs: 40 bytes a pair with every trait.
    table = (
        pairs.filter(pl.all_horizontal(pl.col(sides).is_not_null()))
        .select(
            pl.col("source").cast(pl.Categorical),
            pl.col("prompt_id").hash().alias("prompt"),
            *(trait.difference.cast(pl.Int32).alias(trait.name) for trait in known),
        )
        .collect(engine="streaming")
    )
    table = table.with_columns(prompt=pl.Series(_numbered(table["prompt"].to_numpy())))
    by_group = [(source, _records(group, known)) for source, group in chain([(None, table)], _by_source(table))]
    return [
        {"name": trait.name, "title": trait.title, "source": source, **record}
        for place, trait in enumerate(known)
        for source, records in by_group
        if (record := records[place]) is not None
    ]


def _by_source(table: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    largest = table.drop_nulls("source")["source"].value_counts(sort=True).filter(pl.col("count") >= LEAST_PAIRS)
    names = largest["source"].head(LARGEST_SOURCES).to_list() if largest.height > 1 else []
    return ((name, table.filter(pl.col("source") == name)) for name in names)


def _records(group: pl.DataFrame, traits: Sequence[Trait]) -> list[dict[str, Any] | None]:
    prompts = _numbered(group["prompt"].to_numpy())
    return [_record(group[trait.name], prompts) for trait in traits]


def _record(column: pl.Series, prompts: Numbers) -> dict[str, Any] | None:
    if column.null_count():
        prompts = _numbered(prompts[column.is_not_null().to_numpy()])
    difference = column.drop_nulls().to_numpy()
    if not len(difference):
        return None
    value, low, high = auc(difference, prompts)
    decided = int(np.count_nonzero(difference))
    wins = float((difference > 0).sum() / decided) if decided else None
    return {"auc": value, "low": low, "high": high, "pairs": len(difference), "decided": decided, "wins": wins}


def _numbered(values: npt.NDArray[Any]) -> Numbers:
    """Equal values by consecutive numbers from 0."""
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def auc(difference: Whole, prompts: Whole) -> tuple[float, float, float]:
    """AUC of scores `difference`, (pairs,), and both ends of its interval; `prompts` numbers the pairs' prompts."""
    values, which, counts = np.unique(difference.astype(np.int64), return_inverse=True, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    left, right = np.searchsorted(values, -values, "left"), np.searchsorted(values, -values, "right")
    pairs = len(difference)
    component = ((pairs - below[right]) + 0.5 * (below[right] - below[left])) / pairs
    value = float((component * counts).sum() / pairs)
    by_prompt = np.bincount(prompts, weights=2 * (component - value)[which])
    clusters = len(by_prompt)
    error = float(np.sqrt((by_prompt**2).sum() * clusters / max(clusters - 1, 1))) / pairs
    return value, max(value - Z95 * error, 0.0), min(value + Z95 * error, 1.0)


def model_lead(pairs: pl.LazyFrame) -> pl.LazyFrame:
    """The pairs with `model_lead`: 1 where the chosen side's model wins more often than the rejected one's, −1 where
    less often, 0 where as often; null where a model is not named or was not seen.

    Win rates are of the other half of the prompts, so that no pair is predicted from its own label.
    """
    half = (pl.col("prompt_id").hash() % 2).cast(pl.Int8)
    split = pairs.with_columns(_half=half)
    seen = pl.concat(
        [split.select("_half", model=f"{side}_model", won=pl.lit(side == "chosen")) for side in ("chosen", "rejected")]
    )
    rates = (
        seen.drop_nulls("model")
        .group_by("_half", "model")
        .agg(rate=pl.col("won").mean())
        .with_columns(_half=(1 - pl.col("_half")).cast(pl.Int8))
    )
    for side in ("chosen", "rejected"):
        split = split.join(
            rates.rename({"model": f"{side}_model", "rate": f"_{side}"}),
            how="left",
            on=["_half", f"{side}_model"],
            maintain_order="left",
        )
    lead = (pl.col("_chosen") - pl.col("_rejected")).sign().cast(pl.Int8)
    return split.with_columns(model_lead=lead).drop("_half", "_chosen", "_rejected")
