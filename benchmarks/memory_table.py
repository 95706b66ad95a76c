"""Memory by model size: what `scoreonce estimate` says of public shapes, as a table of docs/scale.md.

    python benchmarks/memory_table.py [--only 8B]

Nothing is downloaded: the shapes are written below. A minute, nearly all of it in building adapters of 80 layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.memory.peaks import Plan, training_peak
from scoreonce.pipeline.memory.sizes import sizes_of
from scoreonce.stages.models import adapters
from scoreonce.stages.models.loading import recompute_activations
from scoreonce.stages.models.lora import Lora

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- memory: made by benchmarks/memory_table.py -->\n", "<!-- /memory -->"
GIB = 1 << 30
BUDGET, LENGTH, RANK = 16_384, 1_024, 16
GPUS = (2, 4, 8)
# GB by name, and the GiB of it that are left: drivers keep some, CUDA and its libraries take 1, and 2 are for gaps
# between blocks of memory.
CARDS = {24: 21, 48: 42, 80: 76, 141: 136}
OPTIMIZER = "adamw_torch_fused"


@dataclass(frozen=True)
class Shape:
    """A published model, as far as memory depends on it."""

    name: str
    family: str
    width: int
    layers: int
    heads: int
    key_heads: int
    feed_forward: int
    vocabulary: int
    tied: bool

    def model(self) -> nn.Module:
        """Its structure in bfloat16, without weights."""
        config = getattr(transformers, self.family)(
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            intermediate_size=self.feed_forward,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            max_position_embeddings=131_072,
        )
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


SHAPES = (
    Shape("Llama 3.2 1B", "LlamaConfig", 2_048, 16, 32, 8, 8_192, 128_256, True),
    Shape("Llama 3.2 3B", "LlamaConfig", 3_072, 28, 24, 8, 8_192, 128_256, True),
    Shape("Llama 3.1 8B", "LlamaConfig", 4_096, 32, 32, 8, 14_336, 128_256, False),
    Shape("Qwen2.5 14B", "Qwen2Config", 5_120, 48, 40, 8, 13_824, 152_064, False),
    Shape("Qwen2.5 32B", "Qwen2Config", 5_120, 64, 40, 8, 27_648, 152_064, False),
    Shape("Llama 3.1 70B", "LlamaConfig", 8_192, 80, 64, 8, 28_672, 128_256, False),
)
HEAD = [
    f"| model | parameters | trained | 1 GPU | each under DDP | {' | '.join(f'{n} sharded' for n in GPUS)} |",
    f"|---|---:|---|{'---:|' * (2 + len(GPUS))}",
]


def lines(shape: Shape) -> Iterator[str]:
    """The lines of a model: all weights, LoRA, and LoRA on weights of 4 bits."""
    ids = np.zeros(LENGTH // 2 + 1, np.int32)
    rows = [PromptRow(ids[:1], (ids, ids[: LENGTH // 2]))] * (BUDGET // LENGTH)
    for trained, lora in (("all weights", False), ("LoRA", True)):
        model = shape.model()
        count = sum(parameter.numel() for parameter in model.parameters())
        if lora:
            model = adapters.with_new_lora(model, Lora(RANK, 2.0 * RANK))
        recompute_activations(model)
        sizes = sizes_of(model, rows, "flex", device="cuda", trains=True)
        for name, nf4 in ((trained, False), ("QLoRA", True)) if lora else ((trained, False),):
            plans = [Plan("cuda", 1, "none", nf4), Plan("cuda", 2, "none", nf4)]
            plans += [Plan("cuda", gpus, "full", nf4) for gpus in GPUS]
            cells = (cell(training_peak(sizes, plan, optimizer=OPTIMIZER).bytes) for plan in plans)
            yield f"| {shape.name} | {count / 1e9:.2f} B | {name} | {' | '.join(cells)} |"


def cell(size: int) -> str:
    """GiB, and the smallest card that has them."""
    card = next((name for name, left in CARDS.items() if size / GIB <= left), None)
    return f"{size / GIB:,.1f} ({card or '–'})"


def table(shapes: Sequence[Shape]) -> list[str]:
    """The whole table."""
    return [*HEAD, *(line for shape in shapes for line in lines(shape))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="models whose name ends in this; changes no page")
    given = parser.parse_args()
    made = table([shape for shape in SHAPES if shape.name.endswith(given.only or "")])
    print("\n".join(made))
    if not given.only:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        whole = "\n".join([*made, END])
        PAGE.write_text(f"{before}{BEGIN}{whole}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
