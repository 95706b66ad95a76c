"""Checks of the reference's columns. A low margin is not a label error: with a tenth of the labels flipped, the lowest
tenth by margin contained 15 to 54 % flips, depending on how good the reference is. So no pair fails for its margin,
only for impossible numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from scoreonce.pipeline.audit.checks.check import Check
from scoreonce.pipeline.audit.checks.distributions import Distribution, bin_number, even_sample

# Further from the median than this many interquartile ranges: of a normal distribution, 7 in 10⁸.
OUTLIER_RANGES = 4.0
COLUMNS = (
    "pair_id",
    "ref_chosen_logps",
    "ref_rejected_logps",
    "ref_margin",
    "ref_chosen_entropy",
    "ref_rejected_entropy",
    "ref_chosen_top1_hits",
    "ref_rejected_top1_hits",
    "ref_embedding_similarity",
    "ref_ln_ches",
)
NEEDED = COLUMNS[:4]  # the others are optional
_SIDES = ("chosen", "rejected")


def with_rates(pairs: pl.LazyFrame) -> pl.LazyFrame:
    """Adds, in nats per completion token: ref_*_nll (the logarithm of the perplexity), ref_*_mean_entropy,
    ref_mean_margin; and score_gap.
    """
    per_token = {f"ref_{side}_nll": -pl.col(f"ref_{side}_logps") / pl.col(f"{side}_len") for side in _SIDES}
    entropy = {f"ref_{side}_mean_entropy": pl.col(f"ref_{side}_entropy") / pl.col(f"{side}_len") for side in _SIDES}
    return pairs.with_columns(
        **{name: value.cast(pl.Float32) for name, value in (per_token | entropy).items()},
        score_gap=pl.col("chosen_score") - pl.col("rejected_score"),
    ).with_columns(ref_mean_margin=pl.col("ref_rejected_nll") - pl.col("ref_chosen_nll"))


@dataclass(frozen=True)
class Ranges:
    """Quantiles of the columns; None for a column without a finite value."""

    quantiles: dict[str, float | None]

    def outlier(self, name: str, *, above_only: bool = False) -> pl.Expr:
        """Whether a value is over `OUTLIER_RANGES` interquartile ranges from the median."""
        low, middle, high = (self.quantiles[f"{name}:{q}"] for q in (0.25, 0.5, 0.75))
        if low is None or middle is None or high is None:
            return pl.lit(value=False)
        distance = pl.col(name) - middle
        return pl.col(name).is_finite() & ((distance if above_only else distance.abs()) > OUTLIER_RANGES * (high - low))


def ranges(pairs: pl.LazyFrame) -> Ranges:
    """Quantiles of margins, perplexities and score gaps, over the finite values of an even sample."""
    quartiles = (0.25, 0.5, 0.75)
    wanted = {
        "ref_margin": quartiles,
        "ref_mean_margin": (0.1, 0.5),
        "ref_chosen_nll": quartiles,
        "ref_rejected_nll": quartiles,
        "score_gap": (0.5, 0.9),
    }
    found = (
        even_sample(pairs.select(*wanted))
        .select(
            pl.col(name).filter(pl.col(name).is_finite()).quantile(q).cast(pl.Float64).alias(f"{name}:{q}")
            for name, quantiles in wanted.items()
            for q in quantiles
        )
        .collect(engine="streaming")
    )
    return Ranges(found.row(0, named=True))


def reference_checks(known: Ranges) -> tuple[Check, ...]:
    """Checks of scored pairs."""
    impossible = pl.any_horizontal(
        ~pl.col(f"ref_{side}_logps").is_finite() | (pl.col(f"ref_{side}_logps") > 0) for side in _SIDES
    )
    return (
        Check(
            "reference_logps_impossible",
            "fail",
            "Impossible log-probability",
            "A reference log-probability is not finite or above 0: the scores are damaged, or the model overflows in "
            "this dtype.",
            impossible,
            'Score again with reference.dtype = "float32".',
        ),
        Check(
            "reference_missing",
            "flag",
            "Not scored",
            "The reference has not scored this pair: `train` will reject it.",
            pl.any_horizontal((pl.col(f"{side}_len") > 0) & pl.col(f"ref_{side}_logps").is_null() for side in _SIDES),
            "Run `scoreonce score` again: it scores only what is missing.",
        ),
        Check(
            "reference_margin_outlier",
            "info",
            "Extreme reference margin",
            f"The reference's margin is over {OUTLIER_RANGES:g} interquartile ranges from the median: often one side "
            "is much longer, truncated, or in another language.",
            known.outlier("ref_margin"),
            note=pl.format("margin {} nats", pl.col("ref_margin").round(1)),
        ),
        Check(
            "chosen_perplexity_outlier",
            "info",
            "Chosen side very unlikely",
            f"Its perplexity under the reference is over {OUTLIER_RANGES:g} interquartile ranges above the median: "
            "often another language, code, or text that no model would write.",
            known.outlier("ref_chosen_nll", above_only=True),
            note=pl.format("{} nats per token", pl.col("ref_chosen_nll").round(2)),
        ),
        Check(
            "rejected_perplexity_outlier",
            "info",
            "Rejected side very unlikely",
            "The same for the rejected side: an easy negative with little to learn from.",
            known.outlier("ref_rejected_nll", above_only=True),
            note=pl.format("{} nats per token", pl.col("ref_rejected_nll").round(2)),
        ),
        *_against_scores(known),
    )


def _against_scores(known: Ranges) -> tuple[Check, ...]:
    names = ("score_gap:0.9", "score_gap:0.5", "ref_mean_margin:0.1", "ref_mean_margin:0.5")
    gap, usual_gap, margin, usual_margin = (known.quantiles[name] for name in names)
    if gap is None or margin is None:
        return ()
    # If most values are equal, the quantile is the median: the value must differ from that too.
    far_apart = (pl.col("score_gap") >= gap) & (pl.col("score_gap") > usual_gap)
    other_way = (pl.col("ref_mean_margin") <= margin) & (pl.col("ref_mean_margin") < usual_margin)
    return (
        Check(
            "reference_against_large_gap",
            "info",
            "Large score gap, but the reference disagrees",
            "The score gap is in the top tenth and the reference's margin per token in the bottom tenth: an error in "
            "the scores, or exactly what the policy should learn.",
            far_apart & other_way,
            note=pl.format(
                "gap {}, margin {} nats per token", pl.col("score_gap").round(2), pl.col("ref_mean_margin").round(2)
            ),
        ),
    )


def reference_measures() -> dict[str, pl.Expr]:
    """Measures of scored pairs. Ties count half in accuracies; nll and entropy are in nats per token."""

    def wins(margin: pl.Expr) -> pl.Expr:
        return (margin > 0).mean() + 0.5 * (margin == 0).mean()

    finite = pl.col("ref_margin").is_finite()
    return {
        "reference_accuracy_sum": wins(pl.col("ref_margin").filter(finite)),
        "reference_accuracy_mean": wins(pl.col("ref_mean_margin").filter(finite)),
        "reference_margin_mean": pl.col("ref_margin").filter(finite).mean(),
        "reference_margin_median": pl.col("ref_margin").filter(finite).median(),
        **{f"reference_{side}_nll": _finite_mean(f"ref_{side}_nll") for side in _SIDES},
        **{f"reference_{side}_entropy": _finite_mean(f"ref_{side}_mean_entropy") for side in _SIDES},
        **{
            f"reference_{side}_top1": pl.col(f"ref_{side}_top1_hits").sum()
            / pl.col(f"{side}_len").filter(pl.col(f"ref_{side}_top1_hits").is_not_null()).sum()
            for side in _SIDES
        },
        "score_gap_correlation": pl.corr("score_gap", "ref_mean_margin"),
    }


def _finite_mean(name: str) -> pl.Expr:
    return pl.col(name).filter(pl.col(name).is_finite()).mean()


REFERENCE_DISTRIBUTIONS = (
    Distribution("ref_margin", "reference margin", "nats", pl.col("ref_margin")),
    Distribution("ref_mean_margin", "reference margin per token", "nats per token", pl.col("ref_mean_margin")),
    *(
        Distribution(f"ref_{side}_nll", side, "nats per token", pl.col(f"ref_{side}_nll"), "negative log-likelihood")
        for side in _SIDES
    ),
    Distribution(
        "ref_embedding_similarity",
        "similarity of the sides' hidden states (REAL)",
        "cosine",
        pl.col("ref_embedding_similarity"),
    ),
    Distribution(
        "ref_ln_ches", "length-normalised CHES score: higher means more displacement", "", pl.col("ref_ln_ches")
    ),
    *(
        Distribution(
            f"ref_{side}_mean_entropy", side, "nats per token", pl.col(f"ref_{side}_mean_entropy"), "reference entropy"
        )
        for side in _SIDES
    ),
)


def by_length_gap(pairs: pl.LazyFrame) -> list[dict[str, Any]]:
    """The reference's accuracy by length gap (chosen minus rejected): accuracy by sum depends on length."""
    edges = [-200, -50, -10, 0, 1, 10, 50, 200]
    gap = (pl.col("chosen_len") - pl.col("rejected_len")).cast(pl.Int64)
    table = (
        pairs.filter(pl.col("ref_margin").is_finite())
        .group_by(bin_number(gap, edges).alias("bin"))
        .agg(
            pl.len().alias("pairs"),
            (pl.col("ref_margin") > 0).mean().alias("reference_accuracy_sum"),
            (pl.col("ref_mean_margin") > 0).mean().alias("reference_accuracy_mean"),
            pl.col("ref_margin").mean().alias("reference_margin_mean"),
        )
        .collect(engine="streaming")
    )
    limits = [None, *edges, None]
    return [
        {
            "low": limits[row["bin"]],
            "high": limits[row["bin"] + 1],
            **{key: value for key, value in row.items() if key != "bin"},
        }
        for row in table.sort("bin").to_dicts()
    ]
