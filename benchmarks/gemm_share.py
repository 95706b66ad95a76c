"""The share of the rate of large matrix products that a step of scoreonce reaches, and where the rest of its time goes.

    python benchmarks/gemm_share.py [--smoke]

The pairs and the Llama of `peers.py`, and Llamas of twice its width, in float32. On a machine that others use too, a
rate that was measured a minute before a step is not the one that the step had: here products of 2,048 x 2,048 come
before and after each step, and its share is of their median. They use the heap of huge pages as the step does. What a
step needs is counted as in `peers.py`: a prompt once per pair, padding and recomputation not at all.

To measure a processor with AVX-512 as one without: ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
MKL_ENABLE_INSTRUCTIONS=AVX2. Writes benchmarks/results/gemm_share.md. Nothing else may run beside it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from compared.inside import Parts
from compared.ours import settings
from compared.profiles import PROFILES
from compared.tables import table
from compared.world import write_model
from flops import total
from machine import SIZE, timed, write_page
from peers import FULL, SMOKE, Case, Size, Where, laid_out
from real_data import RESULTS
from torch.profiler import profile

REPEATS = 4  # passes over the pairs
AROUND = 3  # products before and after each step
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::_linear_pointwise")
ATTENTION = "scaled_dot_product"
COMMAND = "python benchmarks/gemm_share.py"


@dataclass(frozen=True)
class Work:
    """Training or scoring. The bound is the share if all but products and attention took no time."""

    shares: list[float]  # of each pass over the pairs
    products: float  # share of the time
    attention: float

    @property
    def cells(self) -> list[str]:
        middle = statistics.median(self.shares)
        spread = f"{middle:.0%} ({min(self.shares):.0%} to {max(self.shares):.0%})"
        spent = (self.products, self.attention, 1 - self.products - self.attention)
        bound = middle / (self.products + self.attention)
        return [spread, " / ".join(f"{part:.0%}" for part in spent), f"{bound:.0%}"]


@dataclass(frozen=True)
class Share:
    """Of one profile and width; shares are of the rate of large products."""

    rate: float  # of those, FLOP/s
    training: Work
    scoring: Work

    @property
    def cells(self) -> list[str]:
        return [f"{self.rate / 1e9:.0f}", *self.training.cells, *self.scoring.cells]


def measured(case: Case, size: Size, repeats: int) -> Share:
    """Training steps and scoring of the same pairs, with large products between them."""
    run = case.run_of(0)
    case.ours("prepare")
    case.ours("score", run=run)
    parts = Parts.of(settings(case.order | {"run": run}))
    batches = [
        range(start, start + case.order["batch"]) for start in range(0, case.order["pairs"], case.order["batch"])
    ]
    left, right = (torch.randn(SIZE, SIZE) for _ in range(2))

    def large() -> list[float]:
        return [2 * SIZE**3 / timed(lambda: left @ right) for _ in range(AROUND)]

    def passed(step: Callable[[Sequence[int]], None]) -> tuple[float, list[float]]:
        """Seconds of a step on every batch, and the rates around them."""
        seconds, rates = 0.0, large()
        for pairs in batches:
            seconds += timed(lambda pairs=pairs: step(pairs))
            rates += large()
        return seconds, rates

    needs = total(pair.lengths.shared() for pair in case.pairs)
    work = {
        "training": (parts.dpo_step, needs.training(size.shape)),
        "scoring": (parts.score, needs.forward(size.shape)),
    }
    shares: dict[str, list[float]] = {name: [] for name in work}
    rates: list[float] = []
    for step, _ in work.values():
        step(batches[0])  # allocators, and the optimizer's state
    for _ in range(repeats):
        for name, (step, operations) in work.items():
            seconds, around = passed(step)
            shares[name].append(operations / seconds / statistics.median(around))
            rates += around
    training, scoring = (Work(shares[name], *kinds(partial(step, batches[-1]))) for name, (step, _) in work.items())
    return Share(statistics.median(rates), training, scoring)


def kinds(work: Callable[[], None]) -> tuple[float, float]:
    """Shares of the time of `work` in matrix products, and in attention."""
    with profile() as found:
        work()
    events = found.key_averages()
    seconds = sum(event.self_cpu_time_total for event in events)
    products = sum(event.self_cpu_time_total for event in events if event.key in PRODUCTS)
    attention = sum(event.self_cpu_time_total for event in events if ATTENTION in event.key)
    return products / seconds, attention / seconds


def widened(size: Size) -> Size:
    """The same with a model of twice the width, and as many layers."""
    shape = size.shape
    wide = replace(shape, width=2 * shape.width, heads=2 * shape.heads, feed_forward=2 * shape.feed_forward)
    return replace(size, shape=wide)


def of_size(size: Size, repeats: int) -> Iterator[list[str]]:
    """A row of the table for each profile."""
    where = Where("cpu", "float32")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_model(model, size.shape)
        for pairs in PROFILES[: size.profiles]:
            count = size.batch[pairs.name] * size.steps
            case = laid_out(pairs, Path(folder) / pairs.name, model, where, count, size.steps)
            row = [pairs.title, f"{size.shape.width:,}", *measured(case, size, repeats).cells]
            print(" | ".join(row), flush=True)  # a run takes half an hour: what was measured is not lost with it
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    smoke = parser.parse_args().smoke
    size, repeats = (SMOKE, 1) if smoke else (FULL, REPEATS)
    rows = [row for each in (size, widened(size)) for row in of_size(each, repeats)]
    head = ["pairs", "width", "large products, GFLOP/s"]
    head += [title for name in ("training", "scoring") for title in (name, "time", "bound")]
    processor = torch.backends.cpu.get_cpu_capability()
    page = [
        f"torch computes for {processor}. Training and scoring: share of the rate of large products, which use huge",
        "pages as the steps do; median of the passes and their range. Time: in products, in attention, and in all",
        "else. Bound: the share if all else took no time.",
        "",
        table(head, rows),
    ]
    title = "Share of the rate of large matrix products"
    write_page(RESULTS / "gemm_share.md", title, COMMAND, page, keep=not smoke)


if __name__ == "__main__":
    main()
