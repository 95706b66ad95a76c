"""What a heap of huge pages gains on a CPU: training, scoring and products of 2,048 x 2,048, with it and without.

    python benchmarks/huge_pages.py [--smoke]

The HH pairs and the Llama of `peers.py`, in float32. A process with pages of 4 KiB, one with torch's own huge pages
(THP_MEM_ALLOC_ENABLE) and one with the heap take turns, batch by batch, with the instructions that the processor has
and with AVX2 alone. Writes benchmarks/results/huge_pages.md. Linux only, where
/sys/kernel/mm/transparent_hugepage/enabled says "madvise": with "always" each process has them. Nothing else may run
beside it. Ten minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compared.inside import Parts
from compared.ours import settings
from compared.profiles import HH
from compared.tables import table
from compared.world import write_model
from machine import SIZE, timed, write_page
from peers import FULL, SMOKE, Size, Where, laid_out
from real_data import RESULTS

from scoreonce.stages.memory import huge_pages

ROUNDS = 10
SMALL, TORCHS, HEAP = "4 KiB", "torch's", "heap"
INSTRUCTIONS = {
    "all": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
WORK = ("training", "scoring", "large product")
COMMAND = "python benchmarks/huge_pages.py"
Order = dict[str, Any]


@dataclass(frozen=True)
class Worker:
    """A process that does a batch of some work whenever it is asked."""

    process: subprocess.Popen[str]

    def ask(self, work: str) -> dict[str, float]:
        """Seconds, and MiB at the peak so far."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(work, file=self.process.stdin, flush=True)
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer


@contextmanager
def started(pages: str, order: Order, environment: dict[str, str]) -> Iterator[Worker]:
    asked = {"THP_MEM_ALLOC_ENABLE": "1"} if pages == TORCHS else {}
    command = [sys.executable, __file__, "--order", json.dumps(order | {"pages": pages})]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | environment | asked, text=True, **pipes) as process:
        yield Worker(process)
        process.stdin.close()


def work(order: Order) -> None:
    """A worker's side: a batch of a kind of work whenever it is asked for."""
    if order["pages"] != HEAP:
        huge_pages.heap_is_limited = lambda: True
    parts = Parts.of(settings(order))
    left, right = (torch.randn(SIZE, SIZE) for _ in range(2))
    starts = itertools.cycle(range(0, order["pairs"], order["batch"]))

    def next_batch() -> Sequence[int]:
        start = next(starts)
        return range(start, start + order["batch"])

    steps = (lambda: parts.dpo_step(next_batch()), lambda: parts.score(next_batch()), lambda: left @ right)
    kinds: dict[str, Callable[[], object]] = dict(zip(WORK, steps, strict=True))
    for line in sys.stdin:
        seconds = timed(kinds[line.strip()])
        print(json.dumps({"seconds": seconds, "peak, MiB": peak()}), flush=True)


def peak() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(order: Order, environment: dict[str, str], rounds: int) -> dict[tuple[str, str], list[dict[str, float]]]:
    """Answers by work and pages; round by round the processes take turns in another order."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        workers = {pages: stack.enter_context(started(pages, order, environment)) for pages in (SMALL, TORCHS, HEAP)}
        for kind in WORK:
            for worker in workers.values():
                worker.ask(kind)  # allocators, and the optimizer's state
        for turn in range(rounds):
            for kind in WORK:
                for pages in list(workers)[:: -1 if turn % 2 else 1]:
                    found.setdefault((kind, pages), []).append(workers[pages].ask(kind))
    return found


def rows_of(found: dict[tuple[str, str], list[dict[str, float]]]) -> Iterator[list[str]]:
    for kind in WORK:
        seconds = {pages: [each["seconds"] for each in found[kind, pages]] for pages in (SMALL, TORCHS, HEAP)}
        cells = [f"{statistics.median(seconds[SMALL]):.2f}"]
        for pages in (TORCHS, HEAP):
            gains = [small / other for small, other in zip(seconds[SMALL], seconds[pages], strict=True)]
            cells.append(f"{statistics.median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f})")
        yield [kind, *cells]


def of_size(size: Size, rounds: int) -> Iterator[list[str]]:
    """The rows of the table for each set of instructions."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_model(model, size.shape)
        count = size.batch[HH.name] * size.steps
        case = laid_out(HH, Path(folder) / HH.name, model, Where("cpu", "float32"), count, size.steps)
        run = case.run_of(0)
        case.ours("prepare")
        case.ours("score", run=run)
        for name, environment in INSTRUCTIONS.items():
            found = measured(case.order | {"run": str(run)}, environment, rounds)
            peaks = " / ".join(f"{found[WORK[-1], pages][-1]['peak, MiB']:,.0f}" for pages in (SMALL, TORCHS, HEAP))
            for row in rows_of(found):
                cells = [name, *row, peaks]
                print(" | ".join(cells), flush=True)
                yield cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    parser.add_argument("--order", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.order:
        work(json.loads(options.order))
        return
    size, rounds = (SMOKE, 1) if options.smoke else (FULL, ROUNDS)
    rows = list(of_size(size, rounds))
    head = ["instructions", "work", "4 KiB pages, s", "torch's huge pages", "heap of huge pages", "peaks, MiB"]
    page = [
        "Seconds of a batch with small pages (median), and how many times as fast it is with huge pages: median of",
        "the rounds and their range. Peaks of the three processes, each of which trains and scores.",
        "",
        table(head, rows),
    ]
    write_page(RESULTS / "huge_pages.md", "Huge pages on a CPU", COMMAND, page, keep=not options.smoke)


if __name__ == "__main__":
    main()
