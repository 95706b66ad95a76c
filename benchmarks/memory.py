"""Memory over time: ten thousand training steps, and scoring into a thousand shards, of a tiny model.

    python benchmarks/memory.py [--steps 10000] [--shards 1000]

Resident memory of this process, read ten times a second. Wanted: as much at the end as in the middle. Writes
benchmarks/results/memory.md, and fails where more than 16 MiB were added in the second half of either.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import machine
from tortured import world

from scoreonce.stages.prepare.stage import prepare
from scoreonce.stages.score.stage import score
from scoreonce.stages.train.stage import train

RESULTS = Path(__file__).resolve().parent / "results" / "memory.md"
MIB = 1 << 20
EVERY = 0.1  # seconds
LARGEST_GROWTH = 16  # MiB in the second half
POINTS = (0.1, 0.25, 0.5, 0.75, 1.0)  # shares of the time
HALF = POINTS.index(0.5)


def resident() -> float:
    """MiB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def watched(work: Callable[[], object]) -> list[float]:
    """Resident memory while `work` runs, ten times a second."""
    found, done = [], threading.Event()

    def watch() -> None:
        while not done.wait(EVERY):
            found.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return found


def at_points(found: Sequence[float]) -> list[float]:
    """The mean over a twentieth of the time up to each of the points: one reading may fall on a checkpoint."""
    width = max(1, len(found) // 20)
    means = []
    for point in POINTS:
        end = max(width, round(point * len(found)))
        means.append(sum(found[end - width : end]) / width)
    return means


def table(rows: dict[str, tuple[list[float], float]]) -> list[str]:
    """The Markdown table: memory at some points of the time, and what the second half added."""
    head = f"| work | seconds | {' | '.join(f'{point:.0%}' for point in POINTS)} | added in the second half |"
    lines = [head, f"|---{'|---:' * (len(POINTS) + 2)}|"]
    for name, (means, seconds) in rows.items():
        cells = " | ".join(f"{mean:,.0f}" for mean in means)
        lines.append(f"| {name} | {seconds:,.0f} | {cells} | {means[-1] - means[HALF]:+.1f} |")
    return lines


def run(steps: int, shards: int) -> dict[str, tuple[list[float], float]]:
    """Memory at the points, and seconds, of both."""
    rows: dict[str, tuple[list[float], float]] = {}

    def measure(name: str, work: Callable[[], object]) -> None:
        started = time.perf_counter()
        found = watched(work)
        rows[name] = at_points(found), time.perf_counter() - started
        print(table({name: rows[name]})[-1], flush=True)

    with tempfile.TemporaryDirectory(prefix="memory-") as scratch, world.working_in(Path(scratch)):
        world.write_inputs(shards)
        scoring = world.run_file(score__shard_completions=2, score__full_vocab="none", score__embeddings=False)
        prepare(scoring)
        measure(f"scoring into {shards:,} shards", lambda: score(scoring))
        training = world.run_file(
            train__max_steps=steps, train__checkpoint_every=max(1, steps // 10), train__learning_rate=1e-5
        )
        measure(f"{steps:,} training steps", lambda: train(training))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=1_000)
    given = parser.parse_args()
    if sys.platform != "linux":
        print("skipped: reads /proc")
        return 0
    warnings.simplefilter("ignore")
    rows = run(given.steps, given.shards)
    command = f"python benchmarks/memory.py --steps {given.steps} --shards {given.shards}"
    machine.write_page(RESULTS, "Memory over time, in MiB", command, table(rows))
    return 1 if any(means[-1] - means[HALF] > LARGEST_GROWTH for means, _ in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
