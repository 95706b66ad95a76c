"""What calibrations, selections and epsilon-DPO add to a training step of DPO, on real pairs.

    python benchmarks/method_cost.py [--pairs 512] [--batch 64] [--repetitions 15]

Needs the shared real data (SCOREONCE_SHARED). A step is forward and backward of a batch, without the optimizer, so that
shares come out rather too large. Competitors alternate on the same pairs, and medians are compared.

A calibration or a selection: the method's own work in a step with the piece, less that of DPO alone. A per-pair method
works on each micro-batch and then on the step, a batch-coupled one on the step alone; what the latter's second forward
costs is in hh.md. epsilon-DPO: its step with the reference's distributions from stored hidden states, less
DPO's. Writes benchmarks/results/method_cost.json and .md. Nothing else may run beside it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import full_vocabulary
import real_data
import torch
from torch import Tensor

from scoreonce.pipeline import methods
from scoreonce.pipeline.batches.microbatches import batcher_for
from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward.layout_probe import choose_layout
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.methods import Method
from scoreonce.pipeline.training import sampling
from scoreonce.pipeline.training.step import MicrobatchPlan, Step, column_gradients
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.models import loading as models
from scoreonce.stages.prepare import stage as prepare
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import data as training_data
from scoreonce.stages.train import reference_logits as reference_states

TARGETS = {"epsilon_dpo": 35.0, "pieces": 1.0}  # per cent of DPO's step
CPU = torch.device("cpu")
PIECES = {
    "calibration `batch_beta` (β-DPO)": {"calibration": "batch_beta"},
    "calibration `alpha_margin` (α-DPO)": {"calibration": "alpha_margin"},
    "calibration `perturbed_beta` (ε-DPO)": {"calibration": "perturbed_beta"},
    "calibration `score_offset` (ODPO)": {"calibration": "score_offset"},
    "calibration `length_penalty` (R-DPO)": {"calibration": "length_penalty"},
    "selection `gaussian_gap` (β-DPO)": {"selection": "gaussian_gap"},
    "selection `token_count` (SFT)": {"selection": "token_count"},
}
Columns = dict[str, Tensor]
Seconds = dict[str, float]


def medians(competitors: Mapping[str, Callable[[], object]], repetitions: int) -> Seconds:
    """Median seconds of each, one competitor after the other in every round; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for _ in range(repetitions + 1):
        for name, call in competitors.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def work_at_once(method: Method, columns: Columns) -> None:
    """What a step does with a batch-coupled method beside forward and backward: see `pipeline/training/step.py`."""
    column_gradients(method, columns, method.init_state())


def work_in_parts(method: Method, columns: Columns, microbatches: list[list[int]]) -> None:
    """The same of a per-pair method."""
    state = method.init_state()
    for pairs in microbatches:
        column_gradients(method, {name: column[pairs] for name, column in columns.items()}, state)
    with torch.no_grad():
        method.run(columns, state)


def train_step(step: Step, rows: list[PromptRow], columns: Columns, budget: int) -> Columns:
    _, everything = step(rows, columns, step.method.init_state(), budget)
    for parameter in step.parameters:
        parameter.grad = None
    return everything


def measure(run: Run, batch: int, repetitions: int) -> dict[str, Any]:
    prepare.prepare(run)
    score.score(run)
    named = {name: methods.resolve(name, {}) for name in ("dpo", "epsilon_dpo")}
    data = training_data.load_training_data(
        RunPaths.of(run), named["epsilon_dpo"].reads | {"chosen_len", "rejected_len"}
    )
    pairs = sampling.batch(len(data), 1, batch, shuffle=True, seed=run.train.seed)[1]
    rows = [data.row(int(pair)) for pair in pairs]
    columns = {name: torch.from_numpy(values[pairs]) for name, values in data.columns.items()}
    columns["exponential_draws"] = torch.from_numpy(sampling.exponential_draws(len(rows), 1, seed=run.train.seed))
    columns["chosen_score"], columns["rejected_score"] = torch.full((2, len(rows)), 2.0) - torch.tensor([[0], [1]])
    model = models.load_model(run.reference.model, dtype="float32", device=CPU)
    scorer = TokenScorer(model, choose_layout(model, run.compute.attention, data.longest_row).layout)
    steps = {
        name: Step(
            scorer,
            list(model.parameters()),
            method,
            reference=reference_states.provider(run, method, CPU, data.longest_row, scorer),
            split=batcher_for(scorer.layout),
        )
        for name, method in named.items()
    }
    budget = run.compute.budget("cpu")
    calls = {name: partial(train_step, step, rows, columns, budget) for name, step in steps.items()}
    everything = {**columns, **calls["epsilon_dpo"]()}
    seconds = medians(calls, repetitions)
    plan = MicrobatchPlan.of([row.tokens for row in rows], 1, budget, batcher_for(scorer.layout))
    split = [list(part) for part in plan.microbatches[0]]
    composed = {
        name: methods.resolve(None, {}, "dpo", pieces.get("calibration"), pieces.get("selection"))
        for name, pieces in PIECES.items()
    }
    at_once = partial(work_at_once, columns=everything)
    in_parts = partial(work_in_parts, columns=everything, microbatches=split)
    work = {"at once": partial(at_once, named["dpo"]), "in parts": partial(in_parts, named["dpo"])}
    work |= {name: partial(at_once if m.batch_coupled else in_parts, m) for name, m in composed.items()}
    own = medians(work, 10 * repetitions)
    more = {name: own[name] - own["at once" if m.batch_coupled else "in parts"] for name, m in composed.items()}
    return {
        "pairs per step": len(rows),
        "completion tokens per step": int(columns["chosen_len"].sum() + columns["rejected_len"].sum()),
        "micro-batches per step": len(split),
        "repetitions": repetitions,
        "step, s": seconds,
        "epsilon_dpo, % of a DPO step more": 100 * (seconds["epsilon_dpo"] / seconds["dpo"] - 1),
        "DPO's own work in a step, s": {name: own[name] for name in ("at once", "in parts")},
        "pieces, s more": more,
        "pieces, % of a DPO step more": {name: 100 * value / seconds["dpo"] for name, value in more.items()},
        "targets, %": TARGETS,
    }


def table(figures: dict[str, Any]) -> str:
    seconds, extra = figures["step, s"], figures["pieces, s more"]
    pieces = "\n".join(
        f"| {name} | {1000 * extra[name]:.3f} | {share:.3f} % |"
        for name, share in figures["pieces, % of a DPO step more"].items()
    )
    return (
        f"# What methods add to a step of DPO, HH pairs, 2.8 M parameter Llama, {date.today()}\n\n"
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores. A step of "
        f"{figures['pairs per step']} pairs ({figures['completion tokens per step']:,} completion tokens, "
        f"{figures['micro-batches per step']} micro-batches) takes DPO {seconds['dpo']:.2f} s without the optimizer; "
        f"medians of {figures['repetitions']} alternating repetitions.\n\n"
        f"| what | more, ms | share of the step |\n|---|---|---|\n"
        f"| ε-DPO from stored hidden states | {1000 * (seconds['epsilon_dpo'] - seconds['dpo']):.0f} | "
        f"{figures['epsilon_dpo, % of a DPO step more']:.1f} % |\n{pieces}\n\n"
        f"Targets: ε-DPO below {TARGETS['epsilon_dpo']:g} %, a calibration or selection below "
        f"{TARGETS['pieces']:g} %.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    shared = real_data.folder()
    with tempfile.TemporaryDirectory() as folder:
        run = full_vocabulary.run_file(shared, Path(folder), options.pairs, "hidden")
        figures = measure(run, options.batch, options.repetitions)
    real_data.write("method_cost", figures, table(figures))


if __name__ == "__main__":
    main()
