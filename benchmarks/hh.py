"""The whole pipeline on real pairs: HH-RLHF with a real small model, through the commands that a user gives.

    python benchmarks/hh.py [--pairs 4000] [--steps 100] [--smoke]

Needs the shared real data (SCOREONCE_SHARED). Writes benchmarks/results/hh.json and hh.md. Nothing else may run beside
it: contention costs five- to fifteenfold.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import real_data

METHODS = ("dpo", "beta_dpo", "alpha_dpo", "minor_dpo")
RUN_FILE = """
out = "{out}"
[data]
source = "{pairs}"
columns = {{ source = "subset" }}
max_length = 512
test_share = 0.1
[reference]
model = "{model}"
[train]
learning_rate = 5e-5
batch_pairs = 32
max_steps = {steps}
"""


def command(*arguments: str) -> tuple[str, float]:
    """Run a scoreonce command; its standard output and wall-clock seconds."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "scoreonce.stages.cli", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"scoreonce {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout, time.perf_counter() - started


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match.group(1) if match else ""


def write_pairs(path: Path, source: Path, count: int) -> None:
    with gzip.open(source, "rt") as lines, path.open("w") as out:
        out.writelines(line for _, line in zip(range(count), lines, strict=False))


def measure(shared: Path, folder: Path, pairs: int, steps: int, methods: Sequence[str]) -> dict[str, Any]:
    source, data = shared / "data/prefs/hh_rlhf_test.jsonl.gz", folder / "pairs.jsonl"
    run = folder / "run.toml"
    model = shared / "data/models/hh-llama-2.8M"
    run.write_text(RUN_FILE.format(out=folder / "out", pairs=data, model=model, steps=steps))
    write_pairs(data, source, pairs)
    figures: dict[str, Any] = {}
    more = pairs // 8
    output, figures["prepare, s"] = command("prepare", str(run))
    print(output)
    for name, count in (("score", pairs), ("score again", pairs), (f"score with {more:,} rows more", pairs + more)):
        if count > pairs:
            write_pairs(data, source, count)
            command("prepare", str(run), "--restart")  # the tables of the fewer rows go, the store stays
        output, figures[f"{name}, s"] = command("score", str(run))
        figures[name] = found(r"scored +(.*)", output)
        print(output)
    for method in methods:
        output, seconds = command("train", str(run), "--method", method)
        figures[f"train {method}, s"] = seconds
        figures[f"train {method}, residual"] = found(r"cached reference to (\S+) nats", output)
        lines = [json.loads(line) for line in (folder / f"out/train/{method}/metrics.jsonl").read_text().splitlines()]
        figures[f"train {method}, first and last loss"] = (lines[0]["loss"], lines[-1]["loss"])
        rates = sorted(line["perf/pairs_per_second"] for line in lines)
        figures[f"train {method}, pairs/s"] = rates[len(rates) // 2]
        output, _ = command("evaluate", str(run), "--method", method)
        print(output)
        summary = json.loads((folder / f"out/evaluate/{method}/summary.json").read_text())
        figures[f"evaluate {method}"] = summary["figures"]
    command("report", str(run))
    figures["report, bytes"] = (folder / "out/report.html").stat().st_size
    return figures


def table(figures: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in figures.items()
        if not isinstance(value, dict)
    )
    methods = [name.removeprefix("evaluate ") for name in figures if name.startswith("evaluate ")]
    accuracies = "\n".join(
        "| {} | {:.3f} ({:.3f} to {:.3f}) | {:.3f} ({:.3f} to {:.3f}) |".format(
            method,
            *(
                figures[f"evaluate {method}"][key + end]
                for key in ("accuracy", "margin")
                for end in ("", "_low", "_high")
            ),
        )
        for method in methods
    )
    return (
        f"# HH pairs under a 2.8 M parameter Llama\n\n| what | measured |\n|---|---|\n{rows}\n\n"
        f"| method | held-out accuracy (95 %) | mean margin, nats (95 %) |\n|---|---|---|\n{accuracies}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    options = parser.parse_args()
    size = (40, 1, METHODS[:1]) if options.smoke else (options.pairs, options.steps, METHODS)
    shared = real_data.folder()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(shared, Path(folder), *size)
    real_data.write("hh", figures, table(figures), keep=not options.smoke)


if __name__ == "__main__":
    main()
