"""Peaks of memory as `scoreonce estimate` works them out, beside measured ones.

    python benchmarks/memory_estimate.py [--only SGD]

On a CPU: `train --dry-run` and `score --dry-run` of small models, each in a process of its own; the peak of resident
memory above that of the same process with a model of next to nothing. On a GPU: the peaks that benchmarks/gpu.py
recorded. Writes benchmarks/results/memory_estimate.md, and fails where one is more than 15 % off.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import child
import machine
from estimated.cases import CASES, TINY, Case

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = RESULTS / "memory_estimate.md"
DOCUMENT = RESULTS.parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- measured -->\n", "<!-- /measured -->"
MIB, GIB = 1 << 20, 1 << 30
LARGEST_ERROR = 0.15
GPU = ("gpu_qwen_1.5b", "gpu_llama_0.5b")
BUDGET = 16_384


def on_cpu(case: Case, scratch: Path) -> tuple[dict[str, Any], int]:
    """What is estimated for the case's stage, and the peak bytes of its dry run."""
    found = child.ask("estimated.measured", scratch, do="estimate", into=str(scratch), case=asdict(case))
    measured = child.ask("estimated.measured", scratch, do=case.stage, run=found["run"])
    return found[case.stage], measured["peak, bytes"]


def libraries(stage: str) -> int:
    """The peak bytes of a stage with a model of next to nothing."""
    with tempfile.TemporaryDirectory(prefix="memory-estimate-") as scratch:
        return on_cpu(Case("", stage, "LlamaConfig", TINY), Path(scratch))[1]


def row(name: str, stage: str, estimated: float, measured: float, unit: str, parts: dict[str, int]) -> str:
    """A line of the table; the parts largest first."""
    size = GIB if unit == "GiB" else MIB
    largest = sorted(parts.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{part} {count / size:,.{1 if unit == 'GiB' else 0}f}" for part, count in largest)
    digits = 1 if unit == "GiB" else 0
    return (
        f"| {name} | {stage} | {estimated / size:,.{digits}f} {unit} | {measured / size:,.{digits}f} {unit} "
        f"| {estimated / measured:.2f} | {shown} |"
    )


def on_gpu() -> list[tuple[str, float]]:
    """Lines of recorded peaks, each with the ratio of the estimate to it."""
    import torch
    from gpu_models import PROFILES, SHAPES
    from transformers import AutoModelForCausalLM

    from scoreonce.pipeline.batches.microbatches import batcher_for
    from scoreonce.pipeline.batches.prompt_rows import sequence_multiple
    from scoreonce.pipeline.memory.peaks import Plan, scoring_peak, training_peak
    from scoreonce.pipeline.memory.sizes import sizes_of

    lines = []
    for file in GPU:
        recorded = json.loads((RESULTS / f"{file}.json").read_text())["shapes"]
        for shape in SHAPES:
            for profile in PROFILES:
                for layout in ("flex", "flash"):
                    measured = recorded.get(shape.name, {}).get("profiles", {}).get(profile.name, {}).get("ours", {})
                    found = measured.get(f"{layout}, {BUDGET:,} tokens")
                    if not found:
                        continue
                    rows = list(islice(profile.rows(shape.config.vocab_size), found["pairs in a step"]))
                    first = batcher_for(layout)([each.tokens for each in rows], BUDGET)[0]
                    rows = [rows[index] for index in first]
                    with torch.device("meta"):
                        model = AutoModelForCausalLM.from_config(shape.config, dtype=torch.bfloat16)
                    plan, multiple = Plan("cuda", 1, "none"), sequence_multiple(BUDGET)
                    sizes = sizes_of(model, rows, layout, device="cuda", trains=True, multiple=multiple)
                    trained = training_peak(sizes, plan, optimizer="adamw_torch_fused")
                    model.requires_grad_(False)
                    scored = scoring_peak(
                        sizes_of(model, rows, layout, device="cuda", trains=False, multiple=multiple), plan
                    )
                    # The benchmark scores beside its trained model: masters and state of the optimizer are there.
                    scored.parts["masters and state of the benchmark"] = 12 * sizes.weights.whole.count
                    for stage, peak in (("train", trained), ("score", scored)):
                        peak_measured = found[f"{'training' if stage == 'train' else 'scoring'}, peak GiB"] * GIB
                        name = f"{shape.name}, {profile.name}, {layout}"
                        lines.append(
                            (
                                row(name, stage, peak.bytes, peak_measured, "GiB", peak.parts),
                                peak.bytes / peak_measured,
                            )
                        )
    return lines


HEAD = ["| case | stage | estimate | measured | ratio | parts of the estimate |", "|---|---|---:|---:|---:|---|"]


def into_document() -> None:
    """Put the results on disk between the markers of docs/scale.md."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    results = PAGE.read_text(encoding="utf-8").partition("\n\n")[2]
    DOCUMENT.write_text(f"{before}{BEGIN}{results}{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this; writes no page")
    given = parser.parse_args()
    if sys.platform != "linux":
        print("skipped: reads /proc")
        return 0
    # glibc would keep what is freed in gaps, half as much again; blocks of their own it gives back. Set for children.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)
    lines, ratios = ["On the CPU, in float32:", "", *HEAD], []
    bases: dict[str, int] = {}
    for case in CASES:
        if given.only not in f"{case.name}, {case.stage}":
            continue
        with tempfile.TemporaryDirectory(prefix="memory-estimate-") as scratch:
            found, peak = on_cpu(case, Path(scratch))
        if case.stage not in bases:
            bases[case.stage] = libraries(case.stage)
        measured = peak - bases[case.stage]
        lines.append(row(case.name, case.stage, found["bytes"], measured, "MiB", found["parts"]))
        ratios.append(found["bytes"] / measured)
        print(lines[-1], flush=True)
    if given.only:
        return 0
    recorded = on_gpu()
    lines += ["", "Recorded on an H100 by benchmarks/gpu.py, in bfloat16, AdamW fused:", "", *HEAD]
    lines += [line for line, _ in recorded]
    machine.write_page(PAGE, "Estimated and measured memory", "python benchmarks/memory_estimate.py", lines)
    into_document()
    return 1 if any(abs(ratio - 1) > LARGEST_ERROR for ratio in [*ratios, *(each for _, each in recorded)]) else 0


if __name__ == "__main__":
    sys.exit(main())
