"""What computing prompts once saves hybrids: scoring in padded and in continued rows, one after the other.

    python benchmarks/hybrids.py [--smoke]

Models of random weights, four layers each, through the scorer of `score` with its usual micro-batches on a CPU. Each
round scores the same rows in both layouts; medians of the rounds. Writes benchmarks/results/hybrids.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
import transformers as tr

from scoreonce.pipeline.batches.prompt_rows import PromptRow, RowLayout
from scoreonce.pipeline.forward.layout_probe import Probe
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.stages.config import Compute
from scoreonce.stages.scoring.model_scorer import ModelScorer

RESULTS = Path(__file__).resolve().parent / "results" / "hybrids.md"
VOCABULARY, LAYERS = 4_096, 4
MIXED = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
LAYOUTS: tuple[RowLayout, RowLayout] = ("padded", "continued")


def common(width: int) -> dict[str, Any]:
    """What all configurations have."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": width // 8,
        "max_position_embeddings": 2_048,
        "pad_token_id": 0,
    }


def config_of(name: str, width: int) -> tr.PretrainedConfig:
    """A hybrid of this width, with states of the size that its family has at that width."""
    heads, shared = width // 32, {**common(width), "num_hidden_layers": LAYERS}
    if name == "LFM2":
        kinds = ["conv", "conv", "full_attention", "conv"]
        return tr.Lfm2Config(**shared, layer_types=kinds, block_auto_adjust_ff_dim=False)
    if name == "Qwen 3.5":
        linear = {f"linear_{side}_head_dim": 32 for side in ("key", "value")}
        linear |= {"linear_num_key_heads": heads, "linear_num_value_heads": 2 * heads}
        return tr.Qwen3_5TextConfig(**shared, **linear, layer_types=MIXED)
    if name == "Nemotron-H":
        kinds = ["linear_attention", "mlp", "full_attention", "mlp"]
        states = {"ssm_state_size": 64, "mamba_num_heads": 2 * heads, "mamba_head_dim": 32, "n_groups": 1}
        return tr.NemotronHConfig(**common(width), **states, layers_block_type=kinds)
    states = {"mamba_d_ssm": 2 * width, "mamba_n_heads": 2 * heads, "mamba_d_head": 32, "mamba_d_state": 64}
    return tr.FalconH1Config(**shared, **states)


NAMES = ("LFM2", "Qwen 3.5", "Nemotron-H", "Falcon-H1")


@dataclass(frozen=True)
class Case:
    """Rows by their lengths."""

    name: str
    width: int
    rows: int
    prompt: tuple[int, int]  # shortest and longest, in tokens
    completion: tuple[int, int]
    completions: int = 2

    def drawn(self) -> list[PromptRow]:
        """The rows, of random lengths and tokens."""
        random = np.random.default_rng(0)

        def ids(lengths: tuple[int, int]) -> np.ndarray:
            return random.integers(1, VOCABULARY, random.integers(lengths[0], lengths[1] + 1), dtype=np.int32)

        return [
            PromptRow(ids(self.prompt), tuple(ids(self.completion) for _ in range(self.completions)))
            for _ in range(self.rows)
        ]


CASES = (
    Case("prompt 512, two completions of 128", 512, 1, (512, 512), (128, 128)),
    Case("prompts of 8 to 32, completions of 8 to 64", 64, 4, (8, 32), (8, 64)),
    Case("prompts of 64 to 256, completions of 16 to 128", 64, 4, (64, 256), (16, 128)),
)
SMOKE = (Case("smoke", 64, 2, (8, 16), (2, 4)),)


@dataclass(frozen=True)
class Timed:
    """Median seconds by layout, and the largest difference of a token between them, in nats."""

    seconds: Mapping[RowLayout, float]
    difference: float


def timed(model: tr.PreTrainedModel, rows: Sequence[PromptRow], rounds: int) -> Timed:
    """Score the rows in both layouts, in turn, after one round that is not counted."""
    budget = Compute().budget("cpu")
    scorers = {each: ModelScorer(TokenScorer(model, each), Probe(each, 0.0), budget) for each in LAYOUTS}
    taken: dict[RowLayout, list[float]] = {each: [] for each in LAYOUTS}
    logps = {}
    for _ in range(rounds + 1):
        for layout, scorer in scorers.items():
            begun = time.perf_counter()
            logps[layout] = scorer.score(rows, lambda *_: None).scores.token_logps
            taken[layout].append(time.perf_counter() - begun)
    difference = float(np.abs(logps["padded"] - logps["continued"]).max())
    return Timed({layout: statistics.median(each[1:]) for layout, each in taken.items()}, difference)


def saved(rows: Sequence[PromptRow]) -> float:
    """The share of positions that need not be computed where each prompt is once."""
    padded = sum(len(row.prompt) + len(completion) - 1 for row in rows for completion in row.completions)
    return 1 - sum(row.tokens for row in rows) / padded


def table(cases: Sequence[Case], rounds: int) -> list[str]:
    """How many times as fast, by case and model."""
    lines = [
        f"Padded over continued seconds, medians of {rounds} rounds; positions saved; the worst token's difference.",
        "",
        f"| rows | width | saved | {' | '.join(NAMES)} | difference, nats |",
        f"|---|---:|---:|{'---:|' * len(NAMES)}---:|",
    ]
    for case in cases:
        rows, cells, worst = case.drawn(), [], 0.0
        for name in NAMES:
            torch.manual_seed(0)
            model = tr.AutoModelForCausalLM.from_config(config_of(name, case.width)).eval()
            found = timed(model, rows, rounds)
            cells.append(f"{found.seconds['padded'] / found.seconds['continued']:.2f}")
            worst = max(worst, found.difference)
            print(case.name, case.width, name, found, file=sys.stderr, flush=True)
        rows_text = f"{case.rows} x {case.name}"
        lines.append(f"| {rows_text} | {case.width} | {saved(rows):.0%} | {' | '.join(cells)} | {worst:.0e} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="whether it runs, at a tiny size; writes nothing")
    smoke = parser.parse_args().smoke
    tr.logging.set_verbosity_error()
    lines = table(SMOKE if smoke else CASES, 1 if smoke else 3)
    if smoke:
        print("\n".join([machine.line(machine.described()), "", *lines]))
    else:
        machine.write_page(RESULTS, "Hybrids: prompts computed once", "python benchmarks/hybrids.py", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
