"""Columns at scale: what polars takes for ten million scored pairs, and torch for the pairs of a large step.

    python benchmarks/columns.py [--pairs 10000000] [--batch 65536] [--smoke]

Margins, a beta per step, selections and quantile filters, as expressions over a Parquet file; then whole methods on
tensors, forward and gradient. Writes benchmarks/results/columns.json and columns.md. Each part runs in a process of its
own, for its peak memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import child
import numpy as np
import polars as pl
import real_data

AT_ONCE = 1_000_000
STEP_PAIRS = 64  # pairs of an optimizer step
BETA, FOLLOW, FLOOR, MOMENTUM, KEEP = 0.1, 0.6, 1e-3, 0.9, 0.8  # of beta-DPO
METHODS = ("dpo", "ipo", "beta_dpo", "alpha_dpo", "wpo", "aot")
REPEATS = 5
MIB = 2**20


def write_scored(path: Path, pairs: int) -> None:
    """Random columns of that many scored pairs: lengths, and log-probs of policy and reference."""
    random, frames = np.random.default_rng(0), []
    for start in range(0, pairs, AT_ONCE):
        count = min(AT_ONCE, pairs - start)
        lengths = random.integers(10, 400, (2, count), dtype=np.int32)
        ref = -random.gamma(8, 0.3, (2, count)) * lengths
        policy = ref + random.normal(0, 0.05, (2, count)) * lengths
        frames.append(
            pl.DataFrame(
                {
                    "step": (np.arange(start, start + count) // STEP_PAIRS).astype(np.int32),
                    "chosen_len": lengths[0],
                    "rejected_len": lengths[1],
                    "ref_chosen_logps": ref[0],
                    "ref_rejected_logps": ref[1],
                    "policy_chosen_logps": policy[0],
                    "policy_rejected_logps": policy[1],
                    "draw": random.standard_exponential(count),
                }
            )
        )
    pl.concat(frames).write_parquet(path, compression="lz4")


def margin() -> pl.Expr:
    """Chosen minus rejected log-ratio, nats."""
    chosen, rejected = (pl.col(f"policy_{side}_logps") - pl.col(f"ref_{side}_logps") for side in ("chosen", "rejected"))
    return (chosen - rejected).alias("margin")


def margins(pairs: pl.LazyFrame) -> pl.LazyFrame:
    """Margins, per token too, their moments and how often the chosen side leads."""
    chosen, rejected = (pl.col(f"policy_{side}_logps") / pl.col(f"{side}_len") for side in ("chosen", "rejected"))
    per_token = (chosen - rejected).alias("per token")
    leads = (margin() > 0).mean().alias("accuracy")
    return pairs.select(margin().mean(), margin().std().alias("std"), leads, per_token.mean())


def step_moments(pairs: pl.LazyFrame) -> pl.LazyFrame:
    """Mean and spread of the margin in each step, and their running values."""
    by_step = pairs.group_by("step").agg(margin().mean().alias("mean"), margin().std().alias("std")).sort("step")
    running = {f"running {name}": pl.col(name).ewm_mean(alpha=1 - MOMENTUM, adjust=False) for name in ("mean", "std")}
    return by_step.with_columns(**running)


def calibrated(pairs: pl.LazyFrame) -> pl.LazyFrame:
    """A beta for each step from its margins (beta-DPO), and the mean reward that it makes."""
    beta = (BETA * (1 + FOLLOW * (pl.col("mean") - pl.col("running mean")))).clip(lower_bound=FLOOR)
    with_beta = pairs.join(step_moments(pairs).select("step", beta.alias("beta")), on="step", maintain_order="left")
    return with_beta.select((pl.col("beta") * margin()).mean(), pl.col("beta").min().alias("least"))


def selected(pairs: pl.LazyFrame) -> pl.LazyFrame:
    """The pairs of each step that a Gaussian about the running mean keeps (beta-DPO): Gumbel top-k by step."""
    z = (margin() - pl.col("running mean")) / pl.col("running std")
    key = (-0.5 * z**2 - pl.col("draw").log()).alias("key")
    moments = step_moments(pairs).select("step", "running mean", "running std")
    keys = pairs.join(moments, on="step", maintain_order="left").select("step", key)
    kept = pl.col("key").rank("ordinal", descending=True).over("step") <= int(STEP_PAIRS * KEEP)
    return keys.filter(kept).select(pl.len())


def between_quantiles(pairs: pl.LazyFrame) -> pl.LazyFrame:
    """The pairs whose margin lies between the 5 % and the 95 % quantile, and is no tenth longest."""
    low, high = margin().quantile(0.05), margin().quantile(0.95)
    gap = (pl.col("chosen_len") - pl.col("rejected_len")).abs()
    return pairs.filter(margin().is_between(low, high) & (gap <= gap.quantile(0.9))).select(pl.len())


def by_quantile(pairs: pl.LazyFrame) -> pl.LazyFrame:
    """Mean length gap in each hundredth of the margins."""
    hundredth = (margin().rank("ordinal") * 100 // (pl.len() + 1)).alias("bin")
    binned = pairs.select(hundredth, (pl.col("chosen_len") - pl.col("rejected_len")).alias("gap"))
    return binned.group_by("bin").agg(pl.col("gap").mean(), pl.len())


TABLES: dict[str, tuple[str, Callable[[pl.LazyFrame], pl.LazyFrame]]] = {
    "margins": ("margins, their moments, ranking accuracy", margins),
    "calibration": ("a beta per step of 64 from its margins", calibrated),
    "selection": ("Gumbel top-k within each step of 64", selected),
    "quantiles": ("filter by two quantiles", between_quantiles),
    "hundredths": ("table by hundredths of the margin", by_quantile),
}


def table_part(order: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one polars query over the file: the median of three."""
    work, seconds = TABLES[order["part"]][1], []
    for _ in range(3):
        started = time.perf_counter()
        work(pl.scan_parquet(order["file"])).collect(engine="streaming")
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds)}


def tensor_part(order: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each method on a batch of pairs, alone and with the gradient of each policy column."""
    import torch

    from scoreonce.pipeline import methods
    from scoreonce.pipeline.training.step import column_gradients

    frame = pl.read_parquet(order["file"], n_rows=order["batch"]).cast(pl.Float64)
    columns = {name: torch.from_numpy(frame[name].to_numpy().copy()) for name in frame.columns}
    columns |= {
        "policy_chosen_collision_logps": columns["policy_chosen_logps"],
        "policy_rejected_collision_logps": columns["policy_rejected_logps"],
    }
    figures = {}
    for method in (methods.resolve(name, {}) for name in METHODS):
        own = {name: columns[name] for name in method.reads}
        if method.random:
            own["exponential_draws"] = columns["draw"]
        alone, with_gradients = partial(method.run, own), partial(column_gradients, method, own)
        figures[method.name] = [_median(partial(work, method.init_state())) for work in (alone, with_gradients)]
    return figures


def _median(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def answered(order: dict[str, Any]) -> dict[str, Any]:
    match order["part"]:
        case "write":
            write_scored(Path(order["file"]), order["pairs"])
            return {}
        case "tensors":
            return {"methods": tensor_part(order)}
        case _:
            return table_part(order)


def measure(folder: Path, pairs: int, batch: int) -> dict[str, Any]:
    order = {"file": str(folder / "pairs.parquet"), "pairs": pairs, "batch": batch}
    child.ask("columns", folder, **order, part="write")
    tables = {part: child.ask("columns", folder, **order, part=part) for part in TABLES}
    tensors = child.ask("columns", folder, **order, part="tensors")["methods"]
    return {
        "pairs": pairs,
        "batch": batch,
        "polars": {
            TABLES[part][0]: {
                "seconds": answer["seconds"],
                "pairs/s": pairs / answer["seconds"],
                "peak, bytes": answer["peak, bytes"],
            }
            for part, answer in tables.items()
        },
        "torch": {
            name: {"seconds": alone, "seconds with gradients": gradients}
            for name, (alone, gradients) in tensors.items()
        },
    }


def page(figures: dict[str, Any]) -> str:
    polars = "".join(
        f"| {what} | {found['seconds']:.2f} | {found['pairs/s'] / 1e6:.1f} | {found['peak, bytes'] / MIB:,.0f} |\n"
        for what, found in figures["polars"].items()
    )
    torch = "".join(
        f"| {name} | {found['seconds'] * 1e3:.1f} | {found['seconds with gradients'] * 1e3:.1f} |\n"
        for name, found in figures["torch"].items()
    )
    return (
        f"# Columns at scale\n\n{figures['pairs']:,} pairs in a Parquet file, by polars, streaming:\n\n"
        f"| what | seconds | million pairs/s | peak MiB |\n|---|---|---|---|\n{polars}\n"
        f"{figures['batch']:,} pairs in one step, by torch in float64:\n\n"
        f"| method | ms | ms with the gradients of its columns |\n|---|---|---|\n{torch}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=65_536)
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    options = parser.parse_args()
    pairs, batch = (20_000, 1_024) if options.smoke else (options.pairs, options.batch)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), pairs, batch)
    real_data.write("columns", figures, page(figures), keep=not options.smoke)


if __name__ == "__main__":
    if child.asked():
        child.answer(answered)
    else:
        main()
