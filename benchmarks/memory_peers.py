"""Memory of DPO training by model size: scoreonce, TRL with its reference loaded, and TRL with precomputed log-probs.

    python benchmarks/memory_peers.py [--device cpu] [--dtype float32] [--only 12] [--smoke]

Llamas of several sizes on HH pairs, two steps of the same pairs with AdamW, each side in a process of its own. TRL
takes its default of 8 pairs in a micro-batch, and scoreonce its own. On a CPU the peak is that of resident memory less
that of the same side with a model of next to nothing, which is libraries and data; on a GPU that of allocated memory.
Writes benchmarks/results/memory_peers.json and memory_peers.md. Needs TRL, which takes 85 to 145 bytes a parameter of
these models on a CPU, most of them activations: 11 GiB for the largest. Twenty minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import child
import real_data
from compared.profiles import HH, VOCABULARY
from flops import Shape
from peers import LOSSES_APART, TRLS_OWN, Where, laid_out

MIB = 1 << 20
BATCH, STEPS = 8, 2
LOADED, PRECOMPUTED, OURS = "TRL", "TRL, precomputed", "scoreonce"
# Width, layers, heads, feed-forward, vocabulary.
SHAPES = {
    "cpu": (
        Shape(384, 6, 6, 1_088, VOCABULARY),
        Shape(576, 12, 9, 1_536, 16_384),
        Shape(768, 12, 12, 2_048, 32_768),
    ),
    "cuda": (
        Shape(576, 30, 9, 1_536, 49_152),
        Shape(1_024, 24, 16, 2_816, 128_256),
        Shape(2_048, 16, 32, 8_192, 128_256),
    ),
}
TINY = Shape(64, 1, 1, 64, VOCABULARY)  # libraries, data, and next to nothing
SMOKE = (Shape(128, 2, 2, 256, VOCABULARY),)


def peaks(shape: Shape, where: Where, folder: Path) -> dict[str, int]:
    """Bytes at the peak of each side's training; ends the benchmark where the sides do not train the same."""
    model = folder / "model"
    child.ask("compared.make_model", folder, model=str(model), shape=asdict(shape), dtype=where.dtype)
    case = laid_out(HH, folder / "pairs", model, where, BATCH * STEPS, STEPS)
    case.ours("prepare")
    case.ours("score")
    micro = dict.fromkeys(("score", "train"), min(TRLS_OWN, BATCH))
    answers = {
        LOADED: case.trl("train", micro=micro, changes={"precompute_ref_log_probs": False}),
        PRECOMPUTED: case.trl("train", micro=micro),
        OURS: case.ours("train"),
    }
    for name in (LOADED, PRECOMPUTED):
        pairs = zip(answers[name]["losses"], answers[OURS]["losses"], strict=True)
        if not max(abs(theirs - ours) for theirs, ours in pairs) < LOSSES_APART[where.dtype]:
            sys.exit(f"{name} and scoreonce have other losses with {shape}")
    return {name: answer["peak, bytes"] for name, answer in answers.items()}


def measure(shapes: Sequence[Shape], where: Where) -> dict[str, Any]:
    """Bytes of each side by model, and what of them is libraries and data on a CPU."""
    with tempfile.TemporaryDirectory(prefix="memory-peers-") as folder:
        bases = (
            peaks(TINY, where, Path(folder)) if where.device == "cpu" else dict.fromkeys((LOADED, PRECOMPUTED, OURS), 0)
        )
    models = []
    for shape in shapes:
        with tempfile.TemporaryDirectory(prefix="memory-peers-") as folder:
            found = peaks(shape, where, Path(folder))
        models.append({**asdict(shape), "parameters": shape.parameters, "peak, bytes": found})
        print(line(models[-1], bases), flush=True)
    return {**asdict(where), "pairs of a step": BATCH, "libraries and data, bytes": bases, "models": models}


def line(model: dict[str, Any], bases: dict[str, int]) -> str:
    """A model's row: MiB above libraries and data, bytes a parameter, and how many times those of scoreonce."""
    own = {name: peak - bases[name] for name, peak in model["peak, bytes"].items()}
    cells = [f"{size / MIB:,.0f} ({size / model['parameters']:.0f})" for size in own.values()]
    ratios = [f"{own[name] / own[OURS]:.2f}" for name in (LOADED, PRECOMPUTED)]
    shape = f"{model['parameters'] / 1e6:,.1f} M, width {model['width']}, {model['layers']} layers"
    return f"| {shape}, vocabulary {model['vocabulary']:,} | {' | '.join([*cells, *ratios])} |"


def page(figures: dict[str, Any]) -> str:
    bases = figures["libraries and data, bytes"]
    sides = [LOADED, PRECOMPUTED, OURS]
    head = ["Llama", *(f"{name}, MiB (bytes a parameter)" for name in sides)]
    head += [f"{name} / {OURS}" for name in sides[:2]]
    less = ", ".join(f"{name} {bases[name] / MIB:,.0f}" for name in sides)
    apart = f" Libraries and data, MiB, which are left out: {less}." if any(bases.values()) else ""
    rows = "\n".join(line(model, bases) for model in figures["models"])
    return (
        f"# Memory of DPO training by model size, {figures['dtype']} on {figures['device']}\n\n"
        f"The peak of {STEPS} steps of {figures['pairs of a step']} HH pairs with AdamW.{apart}\n\n"
        f"| {' | '.join(head)} |\n|---|{'---:|' * (len(head) - 1)}\n{rows}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(SHAPES), default="cpu")
    parser.add_argument("--dtype", choices=list(LOSSES_APART), help="float32 on a CPU, bfloat16 on CUDA by default")
    parser.add_argument("--only", type=int, help="the model of so many layers; writes nothing")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    options = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        print("skipped: needs TRL, pip install 'scoreonce[dev]'")
        return
    # glibc would keep what is freed in gaps, half as much again; blocks of their own it gives back. Set for children.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)
    where = Where(options.device, options.dtype or ("bfloat16" if options.device == "cuda" else "float32"))
    shapes = [shape for shape in SHAPES[where.device] if options.only in (None, shape.layers)]
    found = measure(SMOKE if options.smoke else shapes, where)
    name = "memory_peers" if where == Where("cpu", "float32") else f"memory_peers_{where.device}_{where.dtype}"
    real_data.write(name, found, page(found), keep=not (options.smoke or options.only))


if __name__ == "__main__":
    main()
