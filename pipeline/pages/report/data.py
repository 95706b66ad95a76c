"""The report's input: records of training runs, as tables and plain mappings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from scoreonce.pipeline.pages.ranking import JudgementRecord
from scoreonce.pipeline.pages.report.samples import SampleRecord

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class RunRecord:
    """One training run, or one model that was only evaluated.

    `metrics` has one row per optimizer step, `bands` one per group of steps and `held_out` one per evaluation while
    training; each may have no rows. `summary` is empty and `pairs` None before `evaluate`; `lineage` and `settings` are
    empty where training has not begun or ended. `verdict` is a document of `pipeline.verdict.text`.
    """

    label: str
    metrics: pl.DataFrame = field(default_factory=pl.DataFrame)
    bands: pl.DataFrame = field(default_factory=pl.DataFrame)
    held_out: pl.DataFrame = field(default_factory=pl.DataFrame)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    pairs: pl.DataFrame | None = None
    verdict: Mapping[str, Any] = field(default_factory=dict)
    finished: bool = True

    @property
    def trained(self) -> bool:
        """Whether there is anything of a training run."""
        return self.metrics.height > 0

    @property
    def evaluated(self) -> bool:
        """Whether it has a held-out accuracy."""
        return self.summary.get("accuracy") is not None


@dataclass(frozen=True)
class ReportData:
    """Everything one page shows. The manifests are empty where a stage has not run; `demo` holds true rewards."""

    runs: tuple[RunRecord, ...]
    pairs_manifest: Mapping[str, Any] = field(default_factory=dict)
    reference_manifest: Mapping[str, Any] = field(default_factory=dict)
    demo: tuple[Mapping[str, Any], ...] = ()
    best_of_n: tuple[Mapping[str, Any], ...] = ()  # of the demo's reference: n, reward, low, high, kl_bound
    samples: tuple[SampleRecord, ...] = ()
    judgements: tuple[JudgementRecord, ...] = ()
    title: str = "scoreonce report"
    made: str = ""


def metrics_table(records: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """The numeric metrics of each step as float64 columns, by step; the last record of a repeated step counts.

    A resumed run writes the steps after its checkpoint a second time.
    """
    rows = [
        {key: float(value) for key, value in record.items() if isinstance(value, (int, float))} for record in records
    ]
    names = sorted({name for row in rows for name in row})
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.Float64))
    return frame.unique("step", keep="last").sort("step") if "step" in names else pl.DataFrame()


def step_bands(steps: pl.LazyFrame, groups: int) -> pl.LazyFrame:
    """Quantiles of margin and β over at most `groups` runs of consecutive steps.

    `step` is the last of its group; `margin_p50` and the like are in nats; `kept` is the share of non-zero weights.
    """
    width = ((pl.col("step").max() + groups - 1) // groups).clip(1)
    quantiles = [
        pl.col(name).quantile(q, "linear").alias(f"{name}_p{q * 100:.0f}")
        for name in ("margin", "beta")
        for q in QUANTILES
    ]
    return (
        steps.with_columns(pl.col("margin", "beta").fill_nan(None))
        .group_by(((pl.col("step") - 1) // width).alias("group"))
        .agg(pl.col("step").max(), *quantiles, kept=(pl.col("weight") > 0).mean())
        .sort("step")
        .drop("group")
    )


def final_mean(metrics: pl.DataFrame, name: str) -> float | None:
    """Mean of a metric over the last tenth of the steps, at least one; None where it is absent or never finite."""
    if name not in metrics.columns:
        return None
    values = metrics[name].tail(max(1, metrics.height // 10))
    mean = values.filter(values.is_finite()).mean()
    return mean if isinstance(mean, float) else None


def best_first(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """Runs by held-out accuracy, highest first; those without one last, in their order."""
    return sorted(runs, key=lambda run: -run.summary["accuracy"] if run.evaluated else 1.0)
