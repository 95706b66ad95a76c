"""What a sweep costs by `compare`, and by the same trainings each with a reference pass of its own.

    python benchmarks/sweep.py [--pairs 1000] [--seeds 2] [--smoke]

Two methods x two beta x seeds on real pairs with a real small model. `compare` scores once; a separate run prepares,
scores, trains and evaluates in a folder of its own, as with a trainer that keeps no reference scores. Wall-clock, with
the start of each command. Half of the separate runs come before the sweep, half after it.

Needs the shared real data (SCOREONCE_SHARED). Writes benchmarks/results/sweep.json and sweep.md. Nothing else may run
beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import real_data
from hh import command, write_pairs

METHODS, BETAS = ("dpo", "beta_dpo"), (0.05, 0.1)
STAGES = ("prepare", "score", "train", "evaluate")
RUN_FILE = """
out = "{out}"
[data]
source = "{pairs}"
columns = {{ source = "subset" }}
max_length = 512
test_share = 0.2
[reference]
model = "{model}"
[train]
learning_rate = 5e-5
batch_pairs = 32
{more}
"""


def measure(shared: Path, folder: Path, pairs: int, seeds: int, more: str) -> dict[str, Any]:
    """Seconds of the sweep and of each separate run, by stage."""
    data, model = folder / "pairs.jsonl", shared / "data/models/hh-llama-2.8M"
    write_pairs(data, shared / "data/prefs/hh_rlhf_test.jsonl.gz", pairs)

    def run_file(name: str) -> str:
        path = folder / f"{name}.toml"
        path.write_text(RUN_FILE.format(out=folder / name, pairs=data, model=model, more=more))
        return str(path)

    settings = list(itertools.product(METHODS, BETAS, range(seeds)))
    alone: list[dict[str, Any]] = []

    def separate(some: Sequence[tuple[str, float, int]]) -> None:
        for method, beta, seed in some:
            run, sets = run_file(f"alone{len(alone)}"), ["--set", f"train.beta={beta}", "--set", f"train.seed={seed}"]
            options = {"prepare": [], "score": []}
            spent = {
                stage: command(stage, run, *options.get(stage, ["--method", method, *sets]))[1] for stage in STAGES
            }
            alone.append({"method": method, "beta": beta, "seed": seed, **spent})

    half = len(settings) // 2
    separate(settings[:half])
    betas = ",".join(map(str, BETAS))
    swept = run_file("swept")
    output, seconds = command(
        "compare", swept, "--method", ",".join(METHODS), "--set", f"train.beta={betas}", "--seeds", str(seeds)
    )
    print(output)
    separate(settings[half:])
    document = json.loads((folder / "swept/compare/compare.json").read_text())
    return {
        "trainings": len(settings),
        "pairs": pairs,
        "compare, s": seconds,
        "separate runs, s": sum(sum(run[stage] for stage in STAGES) for run in alone),
        "runs": alone,
        "recommended": document["recommended"],
        "reason": document["reason"],
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as a page: both totals, their ratio, and the median separate run by stage."""
    runs = figures["runs"]
    medians = {stage: statistics.median(run[stage] for run in runs) for stage in STAGES}
    spent = "\n".join(f"| one separate run, {stage}, s (median) | {medians[stage]:.1f} |" for stage in STAGES)
    whole, alone = figures["compare, s"], figures["separate runs, s"]
    return (
        f"# A sweep: {figures['trainings']} trainings, {figures['pairs']:,} HH pairs, a Llama of 2.8 M parameters\n\n"
        f"| what | measured |\n|---|---|\n| `compare`, s | {whole:.1f} |\n| separate runs, s | {alone:.1f} |\n"
        f"| separate runs / `compare` | {alone / whole:.2f} |\n{spent}\n\n"
        f"What it found: {figures['reason']}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    options = parser.parse_args()
    size = (60, 1, "max_steps = 1") if options.smoke else (options.pairs, options.seeds, "epochs = 1")
    shared = real_data.folder()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(shared, Path(folder), *size)
    real_data.write("sweep", figures, table(figures), keep=not options.smoke)


if __name__ == "__main__":
    main()
