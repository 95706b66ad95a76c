"""Memory of a model in parts: what each process keeps, whole (DDP) and sharded (FSDP2), on a CPU.

    python benchmarks/sharding.py [--width 1024] [--layers 12]

A random Llama (by default of 151 M parameters in float32) trains two steps with AdamW, in one, two and four processes.
Anonymous resident memory above what the imports take, at its peak until the model is loaded, until the steps are done,
and until the policy is saved; the largest of the processes. What is mapped from files does not count. Linux only.
Writes benchmarks/results/sharding.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine

RESULTS = Path(__file__).resolve().parent / "results" / "sharding.md"
GIB = 1 << 30
EVERY = 0.02  # seconds
# Processes, and whether each keeps a part or all.
CASES = ((1, "none"), (2, "none"), (2, "full"), (4, "full"))
PHASES = ("loaded", "trained", "saved")


class Peak:
    """The largest anonymous memory of this process, in bytes, read fifty times a second."""

    def __init__(self) -> None:
        self.largest = self.started = anonymous()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        wait = threading.Event()
        while not wait.wait(EVERY):
            self.largest = max(self.largest, anonymous())

    def added(self) -> int:
        """So far, above what there was at the start."""
        return max(self.largest, anonymous()) - self.started


def anonymous() -> int:
    """Bytes of this process that are in memory and not of a file."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def train(tree: dict[str, Any], answers: Path) -> None:
    """A process of a launch: trains, and writes what memory it took."""
    from scoreonce.stages.config import Run
    from scoreonce.stages.train import stage
    from scoreonce.stages.train.trainer import Trainer

    peak, found = Peak(), dict.fromkeys(PHASES, 0)

    def noted(phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            try:
                return work(*given)
            finally:
                found[phase] = peak.added()

        return run

    Trainer.build = noted("loaded", Trainer.build)  # type: ignore[method-assign]
    Trainer.train = noted("trained", Trainer.train)  # type: ignore[method-assign]
    Trainer.save_policy = noted("saved", Trainer.save_policy)  # type: ignore[method-assign]
    stage.train(Run.model_validate(tree))
    (answers / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


def measured(tree: dict[str, Any], processes: int, folder: Path) -> dict[str, int]:
    """The largest of the processes, by phase."""
    answers = folder / "answers"
    answers.mkdir()
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launch, __file__, "--train", json.dumps(tree), "--answers", str(answers)]
    subprocess.run(command, check=True, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = [json.loads(path.read_text()) for path in answers.glob("*.json")]
    return {phase: max(each[phase] for each in found) for phase in PHASES}


def run(width: int, layers: int) -> tuple[int, list[tuple[int, str, dict[str, int]]]]:
    """The model's parameters, and of each case the memory by phase."""
    import random

    from scoreonce.pipeline.demo.task import card, prompts
    from scoreonce.stages.config import Run
    from scoreonce.stages.demo import model as demo_model
    from scoreonce.stages.prepare.stage import prepare
    from scoreonce.stages.score.stage import score

    with tempfile.TemporaryDirectory(prefix="sharding-") as scratch:
        folder, draw = Path(scratch), random.Random(0)
        drawn = prompts(0, texts=16, pairs=16, judged=1).pairs
        rows = [{"prompt": each.text, "chosen": card(each, draw), "rejected": card(each, draw)} for each in drawn]
        (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        texts = [row["prompt"] + row["chosen"] for row in rows]
        parameters = demo_model.write(folder / "model", texts, hidden=width, layers=layers, seed=0)
        tree: dict[str, Any] = {
            "out": str(folder / "out"),
            "data": {"source": str(folder / "pairs.jsonl"), "test_share": 0, "max_length": 128},
            "reference": {"model": str(folder / "model")},
            "compute": {"device": "cpu", "tokens_per_microbatch": 512},
            "train": {"learning_rate": 1e-5, "batch_pairs": 4, "max_steps": 2, "verify_pairs": 0},
        }
        prepare(Run.model_validate(tree))
        score(Run.model_validate(tree))
        found = []
        for number, (processes, shard) in enumerate(CASES):
            own = folder / str(number)
            own.mkdir()
            case = {**tree, "compute": {**tree["compute"], "shard": shard}}
            case["train"] = {**tree["train"], "label": f"case-{number}"}
            found.append((processes, shard, measured(case, processes, own)))
        return parameters, found


def table(parameters: int, found: list[tuple[int, str, dict[str, int]]]) -> list[str]:
    """The Markdown table, in GiB and in bytes per parameter."""
    head = "| processes | each keeps | loaded, GiB | trained, GiB | saved, GiB | bytes per parameter |"
    lines = [head, "|---:|---|---:|---:|---:|---:|"]
    for processes, shard, phases in found:
        cells = " | ".join(f"{phases[phase] / GIB:.2f}" for phase in PHASES)
        keeps = "all" if shard == "none" else "a part"
        lines.append(f"| {processes} | {keeps} | {cells} | {max(phases.values()) / parameters:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--train", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--answers", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(given.train, given.answers)
        return
    parameters, found = run(given.width, given.layers)
    lines = [f"A Llama of {parameters:,} parameters in float32, AdamW.", "", *table(parameters, found)]
    command = f"python benchmarks/sharding.py --width {given.width} --layers {given.layers}"
    machine.write_page(RESULTS, "Memory of a model in parts", command, lines)


if __name__ == "__main__":
    main()
