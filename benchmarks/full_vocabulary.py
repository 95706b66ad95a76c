"""Methods of the whole vocabulary on real pairs: stored hidden states against the reference kept loaded.

    python benchmarks/full_vocabulary.py [--pairs 400] [--steps 10] [--smoke]

Needs the shared real data (SCOREONCE_SHARED). For each method the same training twice, and once more from the 128
largest log-probs: how far losses and betas are apart, and the disk that each form takes per completion token. Writes
benchmarks/results/full_vocabulary.json and .md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import real_data

from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.prepare import stage as prepare
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import stage as train

METHODS = ("epsilon_dpo", "tdpo1", "tdpo2", "sparse_po", "mapo")


def run_file(shared: Path, folder: Path, pairs: int, form: str, **settings: Any) -> Run:
    """HH pairs under the 2.8 M parameter Llama."""
    return Run.model_validate(
        {
            "out": str(folder),
            "data": {
                "source": str(shared / "data/prefs/hh_rlhf_test.jsonl.gz"),
                "max_length": 512,
                "limit": pairs,
                "test_share": 0,
            },
            "reference": {"model": str(shared / "data/models/hh-llama-2.8M")},
            "score": {"full_vocab": form},
            "train": {"learning_rate": 5e-5, "batch_pairs": 16, "verify_pairs": 0, **settings},
        }
    )


def losses_and_betas(
    shared: Path, folder: Path, pairs: int, steps: int, method: str, form: str
) -> tuple[list[float], list[float]]:
    run = run_file(
        shared, folder, pairs, "none", method=method, label=f"{method}-{form}", full_vocab=form, max_steps=steps
    )
    train.train(run)
    lines = [json.loads(line) for line in (RunPaths.of(run).training / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines], [line["beta/mean"] for line in lines]


def apart(left: list[float], right: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(left, right, strict=True))


def measure(shared: Path, folder: Path, pairs: int, steps: int, methods: Sequence[str]) -> dict[str, Any]:
    figures: dict[str, Any] = {"disk, bytes per completion token": {}, "methods": {}}
    prepare.prepare(run_file(shared, folder, pairs, "none"))
    lengths = pl.read_parquet(folder / "pairs/train.parquet", columns=["chosen_len", "rejected_len"])
    tokens = int(lengths.sum_horizontal().sum())
    for form in ("hidden", "topk"):
        score.score(run_file(shared, folder, pairs, form))
        blocks = (folder / "store").glob(f"*/{form}*/[!h]*.safetensors")
        figures["disk, bytes per completion token"][form] = sum(path.stat().st_size for path in blocks) / tokens
    for method in methods:
        runs = {form: losses_and_betas(shared, folder, pairs, steps, method, form) for form in ("hidden", "live")}
        entry = {
            "losses, hidden against live": apart(runs["hidden"][0], runs["live"][0]),
            "betas, hidden against live": apart(runs["hidden"][1], runs["live"][1]),
            "losses": runs["hidden"][0],
            "betas": runs["hidden"][1],
        }
        if method not in ("sparse_po", "mapo"):
            top = losses_and_betas(shared, folder, pairs, steps, method, "topk")
            entry["losses, top 128 against hidden"] = apart(top[0], runs["hidden"][0])
        figures["methods"][method] = entry
    return figures


def _row(name: str, entry: dict[str, Any]) -> str:
    top = entry.get("losses, top 128 against hidden")
    stored = f"{entry['losses, hidden against live']:.1e} | {entry['betas, hidden against live']:.1e}"
    ends = f"{entry['losses'][0]:.4f} to {entry['losses'][-1]:.4f}"
    return f"| {name} | {stored} | {'needs hidden states' if top is None else f'{top:.1e}'} | {ends} |"


def table(figures: dict[str, Any]) -> str:
    disk = ", ".join(f"{form} {size:,.0f}" for form, size in figures["disk, bytes per completion token"].items())
    rows = "\n".join(_row(name, entry) for name, entry in figures["methods"].items())
    return (
        f"# Whole-vocabulary methods, HH pairs, 2.8 M parameter Llama (d 192, V 2,048)\n\n"
        f"Bytes per completion token, float32: {disk}.\n\n"
        "| method | largest loss difference, stored against live | of beta | top 128 against stored | loss |\n"
        f"|---|---|---|---|---|\n{rows}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    options = parser.parse_args()
    size = (12, 1, METHODS[:1]) if options.smoke else (options.pairs, options.steps, METHODS)
    shared = real_data.folder()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(shared, Path(folder), *size)
    real_data.write("full_vocabulary", figures, table(figures), keep=not options.smoke)


if __name__ == "__main__":
    main()
