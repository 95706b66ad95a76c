"""A small run whose `out` is at an address, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli_w

from scoreonce.stages import cli
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import load
from scoreonce.stages.demo import model as demo_model

WORDS = ("a letter", "the harbour", "my garden", "an old boat", "warm bread")
STAGES = ("prepare", "score", "audit", "train", "evaluate", "report")
PUBLISHED = {  # some of what each of them writes
    "pairs/manifest.json",
    "reference/manifest.json",
    "audit/index.html",
    "train/dpo/model/model.safetensors",
    "evaluate/dpo/summary.json",
    "report.html",
}


def pairs() -> str:
    """40 pairs, as JSONL."""
    words = [WORDS[number % 5] for number in range(40)]
    rows = [
        {"prompt": f"Write about {word}, number {number}:", "chosen": f" {word} is good", "rejected": " no"}
        for number, word in enumerate(words)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


class Place:
    """A folder with data, a tiny model and the run file, whose `out` is at an address."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, out: str, source: str | None = None) -> None:
        self.folder, self._patch = folder, patch
        (folder / "pairs.jsonl").write_text(pairs())
        texts = ["".join(json.loads(line).values()) for line in pairs().splitlines()]
        demo_model.write(folder / "model", texts, hidden=16, layers=1, seed=0)
        tree = {
            "out": out,
            "data": {"source": source or str(folder / "pairs.jsonl"), "test_share": 0.25},
            "reference": {"model": str(folder / "model")},
            "compute": {"device": "cpu"},
            "train": {"batch_pairs": 8, "max_steps": 6, "checkpoint_every": 2, "learning_rate": 1e-3},
        }
        self.file = folder / "run.toml"
        self.file.write_text(tomli_w.dumps(tree))

    def on(self, machine: str) -> Place:
        """From now on commands run on this machine, which has a cache of its own."""
        self._patch.setenv("SCOREONCE_CACHE", str(self.folder / f"cache-{machine}"))
        return self

    def __call__(self, command: str, *options: str) -> int:
        return cli.run_command([*command.split(), str(self.file), *options])

    @property
    def paths(self) -> RunPaths:
        return RunPaths.of(load(self.file))

    @property
    def weights(self) -> bytes:
        """Of the policy."""
        return (self.paths.policy / "model.safetensors").read_bytes()
