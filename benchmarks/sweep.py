"""What a sweep of methods x betas x seeds costs: by `compare`, by runs that share nothing, and by TRL.

    python benchmarks/sweep.py [--pairs 1000] [--seeds 2] [--model FOLDER] [--trl-runs 3] [--smoke]

The same trainings on the same real pairs on all sides: DPO and IPO, two betas, `--seeds` seeds, one epoch, the policy
evaluated on held-out pairs and saved. `compare` scores once; it is measured with one training and with all of them,
which gives the line of its curve. A separate run prepares, scores, trains and evaluates in a folder of its own.

TRL runs in a process for each training, twice: as it comes, which is with the reference loaded and 8 pairs in a
micro-batch; and with precomputed log-probs, for which all processes have one cache, and the fastest of several
micro-batches, searched first. How often that cache is of use is measured: it is one of identical settings in TRL 1.16.
`--trl-runs` of each are measured, of the latter the first with an empty cache.
Wall-clock, with the start of each process. Half of the separate runs come before the sweep, half after it.

Needs the shared real data (SCOREONCE_SHARED) and TRL. `--model` is another model than their Llama of 2.8 M parameters.
Writes benchmarks/results/sweep.json, sweep.md and sweep.svg, with the model's name behind for another one. Nothing else
may run beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import child
import real_data
from compared import curves
from compared.curves import Cost
from hh import command, write_pairs
from peers import LEARNING_RATE, MICRO_BATCHES, SWEEP, TRLS_OWN, fastest

METHODS, BETAS = ("dpo", "ipo"), (0.05, 0.1)
STAGES = ("prepare", "score", "train", "evaluate")
COMPARE, SEPARATE, TRL, PRECOMPUTED = "compare", "separate runs", "TRL", "TRL, precomputed, tuned"
HELD_OUT, BATCH, MAX_LENGTH = 0.2, 32, 512
RUN_FILE = """
out = "{out}"
[data]
source = "{pairs_file}"
test_source = "{held_out_file}"
max_length = {max_length}
[reference]
model = "{model}"
[train]
learning_rate = {learning_rate}
batch_pairs = {batch}
max_steps = {steps}
"""
Setting = tuple[str, float, int]  # method, beta, seed


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    pairs: int
    seeds: int
    trl_runs: int
    methods: int = len(METHODS)
    separate: int | None = None  # separate runs, by default all
    batch: int = BATCH
    search: Sequence[int] = MICRO_BATCHES

    @property
    def settings(self) -> list[Setting]:
        return list(itertools.product(METHODS[: self.methods], BETAS, range(self.seeds)))


SMOKE = Size(pairs=20, seeds=1, trl_runs=2, methods=1, separate=1, batch=8, search=(2, 4))


@dataclass
class World:
    """The files of all sides, and the runs measured so far."""

    folder: Path
    order: dict[str, Any]
    alone: list[dict[str, Any]] = field(default_factory=list)
    trls: dict[str, list[dict[str, float]]] = field(default_factory=lambda: {TRL: [], PRECOMPUTED: []})

    @classmethod
    def laid_out(cls, folder: Path, source: Path, model: Path, size: Size) -> World:
        """The first pairs for training, the last HELD_OUT of them held out."""
        write_pairs(folder / "all.jsonl", source, size.pairs)
        rows = [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()]
        lines = [json.dumps({side: row[side] for side in ("prompt", "chosen", "rejected")}) for row in rows]
        trained = round(len(lines) * (1 - HELD_OUT))
        files = {"pairs_file": folder / "train.jsonl", "held_out_file": folder / "test.jsonl"}
        for path, own in zip(files.values(), (lines[:trained], lines[trained:]), strict=True):
            path.write_text("".join(f"{line}\n" for line in own))
        order = {
            **{name: str(path) for name, path in files.items()},
            "pairs": trained,
            "held out": len(lines) - trained,
            "batch": size.batch,
            "steps": trained // size.batch,
            "max_length": MAX_LENGTH,
            "model": str(model),
            "device": "cpu",
            "dtype": "float32",
            "learning_rate": LEARNING_RATE,
            "cache": str(folder / "cache"),
            "names": SWEEP,
        }
        return cls(folder, order)

    def run_file(self, name: str) -> str:
        """A run file with an `out` of its own."""
        path = self.folder / f"{name}.toml"
        path.write_text(RUN_FILE.format(out=self.folder / name, **self.order))
        return str(path)

    def compare(self, name: str, settings: Sequence[Setting]) -> tuple[dict[str, Any], float]:
        """What `compare` found, and its seconds."""
        methods, betas, seeds = (list(dict.fromkeys(values)) for values in zip(*settings, strict=True))
        varied = ",".join(map(str, betas))
        output, seconds = command(
            "compare", self.run_file(name), "--method", ",".join(methods), "--set", f"train.beta={varied}",
            "--seeds", str(len(seeds)),
        )  # fmt: skip
        print(output)
        return json.loads((self.folder / name / "compare/compare.json").read_text()), seconds

    def separate(self, settings: Sequence[Setting]) -> None:
        """Each setting in a folder of its own, stage by stage."""
        for method, beta, seed in settings:
            run, sets = self.run_file(f"alone{len(self.alone)}"), [f"train.beta={beta}", f"train.seed={seed}"]
            varied = ["--method", method, *(word for each in sets for word in ("--set", each))]
            spent = {stage: command(stage, run, *(varied if stage in STAGES[2:] else []))[1] for stage in STAGES}
            self.alone.append({"method": method, "beta": beta, "seed": seed, **spent})

    def trl(self, name: str, micro: dict[str, int], settings: Sequence[Setting]) -> None:
        """Each setting by TRL, in a process of its own: its seconds, and passes of the reference made before."""
        for setting in settings:
            out = str(self.folder / f"trl-{name == PRECOMPUTED}-{len(self.trls[name])}")
            order = {**self.order, "setting": setting, "micro": micro, "out": out, "precompute": name == PRECOMPUTED}
            started = time.perf_counter()
            answer = child.ask("compared.trl_side", self.folder, **order, do="run")
            seconds = time.perf_counter() - started
            self.trls[name].append({"seconds": seconds, "passes made before": answer["passes"]})

    def search(self, sizes: Sequence[int]) -> dict[str, int]:
        """The micro-batches with which TRL is fastest."""
        tried = [size for size in sizes if self.order["batch"] % size == 0]
        apart = {name: str(self.folder / f"search-{name}") for name in ("out", "cache")}
        order = {**self.order, **apart, "sizes": tried, "micro": None}
        found = child.ask("compared.trl_side", self.folder, **order, do="search")
        return {what: fastest(found[what]) for what in ("score", "train")}


def measure(folder: Path, source: Path, model: Path, size: Size) -> dict[str, Any]:
    """Seconds of all sides, and their curves."""
    world, settings = World.laid_out(folder, source, model, size), size.settings
    alone, half = settings[: size.separate], len(settings[: size.separate]) // 2
    micro = {TRL: dict.fromkeys(("score", "train"), min(TRLS_OWN, size.batch)), PRECOMPUTED: world.search(size.search)}
    world.separate(alone[:half])
    _, one = world.compare("one", settings[:1])
    document, seconds = world.compare("swept", settings)
    for setting in settings[: size.trl_runs]:
        for name, sizes in micro.items():
            world.trl(name, sizes, [setting])
    world.separate(alone[half:])
    whole = [sum(run[stage] for stage in STAGES) for run in world.alone]
    trls = {name: [run["seconds"] for run in found] for name, found in world.trls.items()}
    costs = {
        COMPARE: Cost.through(one, seconds, len(settings)),
        SEPARATE: Cost.each(whole),
        TRL: Cost.each(trls[TRL]),
        PRECOMPUTED: Cost.after_the_first(trls[PRECOMPUTED]),
    }
    return {
        "model": model.name,
        "trainings": len(settings),
        "pairs": world.order["pairs"],
        "compare with one training, s": one,
        "compare, s": seconds,
        "runs": world.alone,
        "TRL's runs": world.trls,
        "TRL's micro-batches": micro,
        "curves": {name: vars(cost) for name, cost in costs.items()},
        "recommended": document["recommended"],
        "reason": document["reason"],
    }


def page(figures: dict[str, Any], picture: str) -> str:
    """The figures as a page: what was measured, and the curves that follow from it."""
    runs, costs = figures["runs"], {name: Cost(**cost) for name, cost in figures["curves"].items()}
    medians = {stage: statistics.median(run[stage] for run in runs) for stage in STAGES}
    spent = "\n".join(f"| one separate run, {stage}, s (median) | {medians[stage]:.1f} |" for stage in STAGES)
    trls = "\n".join(
        f"| runs of {name}, s | {', '.join(format(run['seconds'], '.1f') for run in found)} |"
        for name, found in figures["TRL's runs"].items()
    )
    passes = ", ".join(format(run["passes made before"], ".1f") for run in figures["TRL's runs"][PRECOMPUTED])
    tuned = ", ".join(f"{size} to {what}" for what, size in figures["TRL's micro-batches"][PRECOMPUTED].items())
    return (
        f"# A sweep: {figures['trainings']} trainings, {figures['pairs']:,} HH pairs, {figures['model']}\n\n"
        "| what | measured |\n|---|---|\n"
        f"| `compare`, one training, s | {figures['compare with one training, s']:.1f} |\n"
        f"| `compare`, {figures['trainings']} trainings, s | {figures['compare, s']:.1f} |\n{spent}\n{trls}\n\n"
        f"What the sweep found: {figures['reason']}\n\n"
        "TRL as it comes runs the reference beside the policy. Precomputing, in one cache, its passes of the "
        f"reference over all pairs before training were {passes}; its fastest micro-batches are {tuned}.\n\n"
        "The curves: of `compare` the line through the two sweeps; of TRL with its cache the first run, and the mean "
        "of the others for each further one; else the mean run times the number of runs. Worked out, not measured, "
        f"where the table above has no such number.\n\n![The same as a picture]({picture})\n\n"
        f"{curves.table(costs, COMPARE)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--model", type=Path, help="a folder of transformers with a tokenizer")
    parser.add_argument("--trl-runs", type=int, default=3, help="of each of TRL's two sides, two at least")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    options = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        print("skipped: needs TRL, pip install 'scoreonce[dev]'")
        return
    size = SMOKE if options.smoke else Size(options.pairs, options.seeds, max(2, options.trl_runs))
    shared = real_data.folder()
    model = options.model or shared / "data/models/hh-llama-2.8M"
    name = f"sweep_{model.name}" if options.model else "sweep"
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), shared / "data/prefs/hh_rlhf_test.jsonl.gz", model.resolve(), size)
    real_data.write(name, figures, page(figures, f"{name}.svg"), keep=not options.smoke)
    if not options.smoke:
        measured = {COMPARE: {1: figures["compare with one training, s"], figures["trainings"]: figures["compare, s"]}}
        measured |= {side: {1: found[0]["seconds"]} for side, found in figures["TRL's runs"].items()}
        costs = {side: Cost(**cost) for side, cost in figures["curves"].items()}
        curves.chart(costs, measured, real_data.RESULTS / f"{name}.svg")


if __name__ == "__main__":
    main()
