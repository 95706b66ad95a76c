"""Findings about preference pairs, each a boolean column: which rows it concerns, how bad it is, what it means.

A check's expression is evaluated over the pairs of both splits, with a `split` column; where the reference has scored,
over the same rows with its columns. A row that a check cannot judge (null) is not a finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

Severity = Literal["fail", "flag", "info"]
EXAMPLES = 3
CROWDED_PROMPT = 8
# Margins further from the median than this many interquartile ranges; a normal distribution has 2 in a billion there.
OUTLIER_RANGES = 4.0
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# What the usual tokenizers take for a control token when it stands in a text.
SPECIAL_TOKENS = (
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<bos>",
    "<eos>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
)


@dataclass(frozen=True)
class Check:
    """A fact about a row that a person should know of. `where` is true for the rows it concerns."""

    name: str
    severity: Severity
    meaning: str
    where: pl.Expr


@dataclass(frozen=True)
class Finding:
    """How many rows a check concerns, out of all that were looked at, with the first few."""

    name: str
    severity: Severity
    meaning: str
    rows: int
    share: float
    examples: list[dict[str, Any]]


@dataclass(frozen=True)
class Measure:
    """A number about the whole dataset; None where there is nothing to measure."""

    name: str
    meaning: str
    value: float | None


def _the_two_sides() -> list[pl.Expr]:
    """The same key for a pair and for the pair with its sides swapped."""
    return [pl.min_horizontal("chosen_id", "rejected_id"), pl.max_horizontal("chosen_id", "rejected_id")]


def _in_completion(tokens: Sequence[str]) -> pl.Expr:
    return pl.any_horizontal(pl.col(side).str.contains_any(list(tokens)) for side in ("chosen", "rejected"))


def _middle_half() -> pl.Expr:
    return pl.col("ref_margin").quantile(0.75) - pl.col("ref_margin").quantile(0.25)


PAIR_CHECKS: tuple[Check, ...] = (
    Check(
        "prompt_in_both_splits",
        "fail",
        "the prompt is in the train and in the test split",
        pl.col("split").n_unique().over("prompt_id") > 1,
    ),
    Check(
        "contradictory_pair",
        "flag",
        "the same pair stands elsewhere with the opposite label",
        pl.col("rejected_id").is_not_null() & (pl.col("pair_id").n_unique().over(_the_two_sides()) > 1),
    ),
    Check(
        "duplicate_pair", "flag", "a copy of an earlier pair, token for token", ~pl.col("pair_id").is_first_distinct()
    ),
    Check(
        "scores_are_tied",
        "flag",
        "the dataset scores both sides the same",
        pl.col("chosen_score") == pl.col("rejected_score"),
    ),
    Check(
        "scores_prefer_rejected",
        "flag",
        "the dataset scores the rejected side higher",
        pl.col("chosen_score") < pl.col("rejected_score"),
    ),
    Check(
        "special_token_in_completion",
        "flag",
        "a control token of common tokenizers stands in a completion's text",
        _in_completion(SPECIAL_TOKENS),
    ),
    Check(
        "one_side_truncated",
        "flag",
        "only one completion was cut and has no EOS: the label may follow the cut",
        (pl.col("rejected_len") > 0) & (pl.col("chosen_truncated") != pl.col("rejected_truncated")),
    ),
    Check(
        "crowded_prompt",
        "info",
        f"the prompt has more than {CROWDED_PROMPT} pairs",
        pl.len().over("prompt_id") > CROWDED_PROMPT,
    ),
    Check("prompt_truncated", "info", "the start of the prompt was cut", pl.col("prompt_truncated")),
    Check("chosen_truncated", "info", "the end of the chosen completion was cut", pl.col("chosen_truncated")),
    Check("rejected_truncated", "info", "the end of the rejected completion was cut", pl.col("rejected_truncated")),
    Check(
        "boundary_merged",
        "info",
        "a token would span the end of the prompt; split as at generation",
        pl.col("boundary_merged"),
    ),
)

REFERENCE_CHECKS: tuple[Check, ...] = (
    Check(
        "reference_logps_impossible",
        "fail",
        "a reference log-prob is not finite or above 0",
        pl.any_horizontal(
            ~pl.col(f"ref_{side}_logps").is_finite() | (pl.col(f"ref_{side}_logps") > 0)
            for side in ("chosen", "rejected")
        ),
    ),
    Check(
        "reference_missing",
        "flag",
        "the reference has not scored this pair: run score again",
        pl.col("ref_chosen_logps").is_null(),
    ),
    Check(
        "reference_margin_outlier",
        "info",
        f"the reference margin is over {OUTLIER_RANGES:g} interquartile ranges from the median",
        (pl.col("ref_margin") - pl.col("ref_margin").median()).abs() > OUTLIER_RANGES * _middle_half(),
    ),
)


def both_splits(train: pl.LazyFrame, test: pl.LazyFrame) -> pl.LazyFrame:
    """The pairs of both splits, with a `split` column."""
    return pl.concat([train.with_columns(split=pl.lit("train")), test.with_columns(split=pl.lit("test"))])


def flagged(pairs: pl.LazyFrame, checks: Sequence[Check]) -> pl.LazyFrame:
    """Which rows each check concerns: `split`, `row`, `pair_id` and a boolean column per check."""
    return pairs.select("split", "row", "pair_id", *(_judged(check) for check in checks))


def _judged(check: Check) -> pl.Expr:
    # `finding:` keeps a check apart from a column of the same name, such as chosen_truncated.
    return check.where.fill_null(value=False).alias(f"finding:{check.name}")


def findings(pairs: pl.LazyFrame, checks: Sequence[Check]) -> list[Finding]:
    """What the checks find, in their order; those that concern no row too."""
    rows = pl.struct("split", "row", "pair_id")
    found = (
        flagged(pairs, checks)
        .select(
            pl.len(),
            *(pl.col(f"finding:{check.name}").sum().alias(f"rows:{check.name}") for check in checks),
            *(
                rows.filter(pl.col(f"finding:{check.name}")).head(EXAMPLES).implode().alias(f"examples:{check.name}")
                for check in checks
            ),
        )
        .collect(engine="streaming")
        .row(0, named=True)
    )
    return [
        Finding(
            check.name,
            check.severity,
            check.meaning,
            found[f"rows:{check.name}"],
            found[f"rows:{check.name}"] / max(found["len"], 1),
            found[f"examples:{check.name}"],
        )
        for check in checks
    ]


def pair_measures(pairs: pl.LazyFrame) -> list[Measure]:
    """Measures of the pairs' lengths and prompts."""
    longer, shorter = pl.col("chosen_len") > pl.col("rejected_len"), pl.col("chosen_len") < pl.col("rejected_len")
    of_pairs = pairs.filter(pl.col("rejected_id").is_not_null())
    return [
        _measure(
            "longer_side_wins",
            "share of pairs of unequal length whose chosen side has more tokens",
            of_pairs,
            longer.sum() / (longer | shorter).sum(),
        ),
        _measure("pairs_per_prompt", "pairs per distinct prompt", pairs, pl.len() / pl.col("prompt_id").n_unique()),
        _measure(
            "most_pairs_of_a_prompt",
            "pairs of the most frequent prompt",
            pairs.group_by("prompt_id").len(),
            pl.col("len").max(),
        ),
    ]


def reference_measures(pairs: pl.LazyFrame) -> list[Measure]:
    """How the reference itself ranks the pairs, and how its margins (nats, chosen minus rejected) are spread."""
    scored = pairs.filter(pl.col("ref_margin").is_not_null())
    per_token = pl.col("ref_chosen_logps") / pl.col("chosen_len") - pl.col("ref_rejected_logps") / pl.col(
        "rejected_len"
    )
    return [
        _measure(
            "reference_accuracy_sum",
            "share of pairs whose chosen side the reference finds likelier, log-probs summed",
            scored,
            (pl.col("ref_margin") > 0).mean(),
        ),
        _measure("reference_accuracy_mean", "the same with log-probs per token", scored, (per_token > 0).mean()),
        *(
            _measure(
                f"reference_margin_q{quantile * 100:02.0f}",
                f"{quantile:.0%} of the reference margins are below, nats",
                scored,
                pl.col("ref_margin").quantile(quantile),
            )
            for quantile in QUANTILES
        ),
    ]


def _measure(name: str, meaning: str, rows: pl.LazyFrame, value: pl.Expr) -> Measure:
    found = rows.select(value.cast(pl.Float64)).collect(engine="streaming").item()
    # 0 / 0: there is no pair to measure.
    return Measure(name, meaning, None if found is None or found != found else found)
