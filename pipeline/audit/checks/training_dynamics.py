"""Training dynamics of one run: the margin of each pair over the epochs, its weight, its β.

From the step log: a row per pair and step it was in. The training-dynamics map is that of dataset cartography
(Swayamdipta et al. 2020, arXiv 2009.10795) with the margin in place of the label's probability: mean and standard
deviation of a pair's margin over its visits. Margins are nats, without β.
"""

from __future__ import annotations

import re
from typing import Any

import polars as pl

from scoreonce.pipeline.audit.checks.check import Check
from scoreonce.pipeline.audit.checks.distributions import Distribution

POINTS = 2000  # of a map
UNMOVED = 0.05  # of the median range of margins


def slug(label: str) -> str:
    """A label as the start of a column's name: letters, digits and underscores."""
    return re.sub(r"\W", "_", label)


def by_pair(steps: pl.LazyFrame, label: str) -> pl.LazyFrame:
    """One row per pair_id, columns named after the label: visits, drops (visits of weight 0), margin_mean,
    margin_spread (standard deviation over visits, null with one), margin_range, margin_last, beta_mean, loss_last.
    """
    margin = pl.col("margin").filter(pl.col("margin").is_finite())
    columns = {
        "visits": pl.len().cast(pl.Int32),
        "drops": (pl.col("weight") == 0).sum().cast(pl.Int32),
        "margin_mean": margin.mean(),
        "margin_spread": margin.std(),
        "margin_range": margin.max() - margin.min(),
        "margin_last": pl.col("margin").sort_by("step").last(),
        "loss_last": pl.col("loss").sort_by("step").last(),
        "beta_mean": pl.col("beta").mean(),
        "beta_spread": pl.col("beta").std(),
    }
    return steps.group_by("pair_id").agg(value.alias(f"{slug(label)}_{name}") for name, value in columns.items())


def median_range(pairs: pl.LazyFrame, label: str) -> float | None:
    """The median range of margins of pairs that were seen more than once, nats; None without any."""
    name = slug(label)
    several = pairs.filter(pl.col(f"{name}_visits") > 1)
    found = several.select(pl.col(f"{name}_margin_range").median()).collect(engine="streaming").item()
    return None if found is None else float(found)


def training_checks(label: str, typical: float | None) -> tuple[Check, ...]:
    """Checks of pairs in one training run; `typical` is the `median_range`."""
    name = slug(label)
    visits, drops = pl.col(f"{name}_visits"), pl.col(f"{name}_drops")
    moved = (
        ()
        if typical is None
        else (
            Check(
                f"{name}_unmoved",
                "info",
                f"Margin that hardly changed in {label}",
                f"Over its visits the margin changed by less than {UNMOVED:.0%} of the usual range: the pair "
                "taught nothing, or its sides are too similar to tell apart.",
                (visits > 1) & (pl.col(f"{name}_margin_range") < UNMOVED * typical),
                note=pl.format("by {} nats", pl.col(f"{name}_margin_range").round(3)),
            ),
        )
    )
    return (
        Check(
            f"{name}_dropped",
            "info",
            f"Dropped at every visit in {label}",
            "Its weight was 0 at every visit: the method considered it noise, or too easy.",
            (drops > 0) & (drops == visits),
            note=pl.format("dropped {} of {} times", drops, visits),
        ),
        Check(
            f"{name}_not_learned",
            "info",
            f"Margin still below zero at its last visit in {label}",
            "The policy still prefers the rejected side more than the reference does: a hard or mislabelled pair.",
            pl.col(f"{name}_margin_last") < 0,
            note=pl.format("{} nats", pl.col(f"{name}_margin_last").round(2)),
        ),
        *moved,
    )


def training_distributions(label: str) -> tuple[Distribution, ...]:
    """Distributions of one training run."""
    name = slug(label)
    return (
        Distribution(f"{name}_margin_last", label, "nats", pl.col(f"{name}_margin_last"), "margin at the last visit"),
        Distribution(f"{name}_margin_spread", label, "nats", pl.col(f"{name}_margin_spread"), "spread of the margin"),
        Distribution(f"{name}_beta_mean", label, "", pl.col(f"{name}_beta_mean"), "β by pair"),
    )


def training_measures(label: str) -> dict[str, pl.Expr]:
    """Measures of one training run, for all pairs and by source."""
    name = slug(label)
    return {
        f"{name}_dropped_visits": pl.col(f"{name}_drops").sum() / pl.col(f"{name}_visits").sum(),
        f"{name}_margin": pl.col(f"{name}_margin_last").mean(),
        f"{name}_accuracy": (pl.col(f"{name}_margin_last").drop_nulls() > 0).mean(),
        f"{name}_beta": pl.col(f"{name}_beta_mean").mean(),
    }


def dynamics_map(pairs: pl.LazyFrame, label: str) -> dict[str, Any] | None:
    """Mean and spread of the margin of at most `POINTS` pairs, evenly taken; None where no pair came twice.

    `regions` counts all pairs: `ambiguous`, the third with the largest spread, and of the rest `learned` with a mean
    above zero, `hard` without.
    """
    name = slug(label)
    mean, spread = pl.col(f"{name}_margin_mean"), pl.col(f"{name}_margin_spread")
    seen = (
        pairs.filter(mean.is_finite() & spread.is_finite())
        .select(
            "pair_id",
            "row",
            "split",
            "source",
            mean=mean,
            spread=spread,
            dropped=pl.col(f"{name}_drops") / pl.col(f"{name}_visits"),
        )
        .collect(engine="streaming")
    )
    if seen.is_empty():
        return None
    restless = pl.col("spread") > seen["spread"].quantile(2 / 3)
    regions = seen.select(
        ambiguous=restless.sum(),
        learned=(~restless & (pl.col("mean") > 0)).sum(),
        hard=(~restless & (pl.col("mean") <= 0)).sum(),
    ).row(0, named=True)
    points = seen.gather_every(-(-seen.height // POINTS))
    return {
        "label": label,
        "x": "mean margin, nats",
        "y": "spread of the margin, nats",
        "pairs": seen.height,
        "regions": regions,
        "points": points.to_dicts(),
    }


def evaluation_columns(evaluated: pl.LazyFrame, label: str) -> pl.LazyFrame:
    """The held-out margins of one policy by pair_id, as a column named after the label."""
    return evaluated.select("pair_id", pl.col("margin").alias(f"{slug(label)}_heldout_margin")).unique("pair_id")


def evaluation_checks(labels: list[str]) -> tuple[Check, ...]:
    """Held-out pairs with a negative margin under every evaluated policy; none without a policy."""
    if not labels:
        return ()
    wrong = pl.all_horizontal(pl.col(f"{slug(label)}_heldout_margin") < 0 for label in labels)
    who = "the policy" if len(labels) == 1 else f"each of {len(labels)} policies"
    return (
        Check(
            "heldout_against_label",
            "info",
            "Held-out pair whose margin fell in training",
            f"After training, {who} prefers the rejected side more than the reference does. Where policies agree, "
            "check the label.",
            wrong,
            note=pl.format("margin {} nats", pl.col(f"{slug(labels[0])}_heldout_margin").round(2)),
        ),
    )
