"""The learning rate of each method: the best of as many for all, by true reward on validation prompts.

Methods are searched with the middle one of their betas, over seeds that no claim has and true labels. What is found is
benchmarks/results/evidence/rates.parquet, which the claims read; it has no number of a test prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from paired import best
from trials import Trial, Trials

RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)
SEEDS = (8, 9)
CLAIMED = range(1, min(SEEDS) + 1)  # how many seeds a claim may have, from 0, so that none is of the search
TABLE = Path(__file__).resolve().parents[1] / "results" / "evidence" / "rates.parquet"
# What a rate is not searched for anew: the strength of the penalty, what a method is told of the flips, and rounding.
SHARED = ("beta", "label_smoothing", "step_dtype", "dead_band")


class Searched(NamedTuple):
    """A training of the search."""

    family: str
    rate: float
    trial: Trial


def family(settings: Mapping[str, Any]) -> str:
    """What has one rate, as JSON. rDPO without flips is DPO, whose rate it has."""
    own = {key: value for key, value in settings.items() if key not in SHARED}
    return json.dumps(own | ({"method": "dpo"} if own["method"] == "robust" else {}), sort_keys=True)


def searched(middle: Iterable[Mapping[str, Any]]) -> Iterator[Searched]:
    """The trainings of a search, of settings with the middle beta of each arm; the first seed's first."""
    families: dict[str, dict[str, Any]] = {}
    for settings in middle:
        if "label_smoothing" not in settings:
            families.setdefault(family(settings), dict(settings))
    for seed in SEEDS:
        for name, settings in families.items():
            for rate in RATES:
                known = tuple(sorted({**settings, "learning_rate": rate}.items()))
                yield Searched(name, rate, Trial(known, 0.0, "all", seed))


def table(every: Iterable[Searched], trials: Trials) -> pl.DataFrame:
    """By family and rate: `validation_reward` and `validation_kl`, means over seeds, and whether it is `chosen`."""
    rows = pl.DataFrame(
        [{"family": each.family, "rate": each.rate, **_validated(trials.result(each.trial))} for each in every],
        schema_overrides={"validation_kl": pl.Float64},
    )
    found = best(rows, ["family"], "rate").with_columns(chosen=True)
    means = rows.group_by("family", "rate", maintain_order=True).mean()
    return means.join(found, on=["family", "rate"], how="left", maintain_order="left").with_columns(
        pl.col("chosen").fill_null(value=False)
    )


def _validated(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of a training, what the search may see. A policy that diverged has no KL."""
    return {key: row.get(key) for key in ("validation_reward", "validation_kl", "cpu_seconds")}


def lines() -> list[str]:
    """What was found, as a table in Markdown."""
    found = pl.read_parquet(TABLE)
    said = ["| method | " + " | ".join(f"{rate:g}" for rate in RATES) + " |", "| --- |" + " --- |" * len(RATES)]
    for (family,), own in found.group_by("family", maintain_order=True):
        method = json.loads(str(family))
        name = ", ".join([f"`{method.pop('method')}`", *(f"`{key}` {value}" for key, value in method.items())])
        said.append(f"| {name} | " + " | ".join(map(_cell, own.sort("rate").iter_rows(named=True))) + " |")
    return said


def _cell(row: Mapping[str, Any]) -> str:
    kl = "diverged" if row["validation_kl"] is None else f"{row['validation_kl']:.0f}"
    said = f"{row['validation_reward']:.2f} ({kl})"
    return f"**{said}**" if row["chosen"] else said


@cache
def chosen() -> dict[str, float]:
    """The learning rate of each family."""
    found = pl.read_parquet(TABLE).filter("chosen")
    return dict(zip(found["family"], found["rate"], strict=True))


def rate_of(settings: Mapping[str, Any]) -> float:
    """The learning rate of these settings. Raises `KeyError` for a method that was not searched: `run.py rates`."""
    return chosen()[family(settings)]
