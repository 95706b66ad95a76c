"""How cost grows: with the number of pairs, their length, the vocabulary and the number of processes.

    python benchmarks/growth.py [--most 1000000] [--smoke]
    python benchmarks/growth.py --only pairs --pairs 100000 1000000 10000000 --score-most 3000000

The latter writes scale.json and scale.md instead, after each stage; larger numbers of pairs than `--score-most` are
neither scored nor trained on.

The model is tiny, so that what is not the model shows. Pairs go through `prepare`, `score` and the loading of `train`;
lengths and vocabularies through single forward and backward passes of the same functions. Each row of a table is a
process of its own; the exponent is the slope of log seconds over log size: 1 is linear. Start-up is left out.
Writes benchmarks/results/growth.json and growth.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import child
import numpy as np
import real_data
from compared.profiles import SPECIAL, TokenPair
from compared.world import write_pairs
from flops import PairLengths, Shape

TINY = Shape(width=32, layers=1, heads=1, feed_forward=64, vocabulary=512)
SMALL = Shape(width=128, layers=2, heads=2, feed_forward=384, vocabulary=2_048)
LENGTHS = (128, 256, 512, 1_024, 2_048, 4_096, 8_192)  # tokens of a prompt with one completion
VOCABULARIES = (8_192, 16_384, 32_768, 65_536, 151_936)
TOKENS = 16_384  # of all pairs that a length is measured with
REPEATS = 3
STAGES = ("prepare", "audit", "score", "train")
WITHOUT_MODEL = ("prepare", "audit")
BY_PAIRS = [*(f"{stage}, s" for stage in STAGES), "train step, s"]
MADE_AT_ONCE = 65_536
MIB = 2**20
RUN_FILE = """
out = "{out}"
[data]
source = "{pairs}"
max_length = 64
test_share = 0
[reference]
model = "{model}"
[compute]
device = "cpu"
attention = "{attention}"
[train]
batch_pairs = 64
max_steps = 6
"""


def random_pairs(count: int, prompt: int, completion: int, vocabulary: int) -> Iterator[TokenPair]:
    random = np.random.default_rng(0)
    for start in range(0, count, MADE_AT_ONCE):
        shape = min(MADE_AT_ONCE, count - start), prompt + 2 * completion
        for ids in random.integers(SPECIAL, vocabulary, shape).tolist():
            yield TokenPair(ids[:prompt], ids[prompt : prompt + completion], ids[prompt + completion :])


# ---- what runs in processes of its own ----


def answered(order: dict[str, Any]) -> dict[str, Any]:
    return {"stage": stage, "passes": passes}[order["do"]](order)


def stage(order: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one stage without the loading of its libraries, and what the process took with them loaded.

    Only this stage is loaded, as by its command: torch alone takes 400 MiB, which `prepare` and `audit` do without.
    """
    from scoreonce.stages import config
    from scoreonce.stages.common.paths import RunPaths

    name = order["stage"]
    carry_out = getattr(importlib.import_module(f"scoreonce.stages.{name}.stage"), name)
    ends = child.step_ends() if name == "train" else []
    run, libraries = config.load(order["run"]), child.resident()
    started = time.time()
    carry_out(run)
    found = {"seconds": time.time() - started, "libraries, bytes": libraries}
    if name != "train":
        return found
    steps = [later - earlier for earlier, later in zip(ends, ends[1:], strict=False)]
    assert (RunPaths.of(run).training / "metrics.jsonl").exists()
    # Before its first step `train` reads the pairs; what a step takes may not depend on how many there are.
    return {**found, "seconds": ends[0] - started, "step, s": statistics.median(steps)}


def passes(order: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a forward without gradient, and of a forward with backward, over rows of one length."""
    import torch

    from scoreonce.pipeline.batches.microbatches import batcher_for
    from scoreonce.pipeline.batches.prompt_rows import PromptRow
    from scoreonce.pipeline.forward import layout_probe as probe
    from scoreonce.pipeline.forward.scorer import TokenScorer
    from scoreonce.stages.config import Compute
    from scoreonce.stages.models.loading import load_model

    model = load_model(order["model"], dtype="float32", device=torch.device("cpu"))
    made = random_pairs(order["pairs"], order["prompt"], order["completion"], order["vocabulary"])
    rows = [
        PromptRow(np.array(pair.prompt, np.int32), (np.array(pair.chosen, np.int32), np.array(pair.rejected, np.int32)))
        for pair in made
    ]
    scorer = TokenScorer(model, probe.choose_layout(model, "auto", rows[0].tokens).layout)
    batches = batcher_for(scorer.layout)([row.tokens for row in rows], Compute().budget("cpu"))

    def forward() -> None:
        with torch.inference_mode():
            for batch in batches:
                scorer([rows[index] for index in batch], statistics=True)

    def backward() -> None:
        for batch in batches:
            scorer([rows[index] for index in batch]).token_logps.sum().backward()

    return {"score, s": _median(forward), "train, s": _median(backward), "layout": scorer.layout}


def _median(work: Any) -> float:
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


# ---- what asks them ----


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of the least-squares line of log cost over log size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def write_world(folder: Path, model: str, pairs: int, attention: str = "auto") -> str:
    """Pairs of short texts and a run file; the path of the latter."""
    folder.mkdir()
    write_pairs(folder / "pairs.jsonl", random_pairs(pairs, 8, 6, TINY.vocabulary))
    settings = {"out": folder / "out", "pairs": folder / "pairs.jsonl", "model": model, "attention": attention}
    (folder / "run.toml").write_text(RUN_FILE.format(**settings))
    return str(folder / "run.toml")


def by_pairs(folder: Path, counts: Sequence[int], score_most: float = math.inf) -> Iterator[dict[str, Any]]:
    """Seconds and peak memory of each stage by number of pairs, after each stage. What was made is removed."""
    model, rows = _model(folder, TINY), []
    for count in sorted(counts):
        world = folder / f"pairs-{count}"
        # Attention row by row takes longer than all else with rows of 20 tokens, and is part of the model.
        run, row = write_world(world, model, count, "padded"), {"pairs": count}
        rows.append(row)
        for name in STAGES if count <= score_most else WITHOUT_MODEL:
            found = child.ask("growth", folder, do="stage", stage=name, run=run)
            row[f"{name}, s"] = found["seconds"]
            if "step, s" in found:
                row["train step, s"] = found["step, s"]
            row |= {f"{name}, bytes": found["peak, bytes"], f"{name}, libraries, bytes": found["libraries, bytes"]}
            yield {"rows": rows, "exponents": _exponents(rows, "pairs", BY_PAIRS, last=2)}
        shutil.rmtree(world)


def by_length(folder: Path, lengths: Sequence[int], tokens: int) -> dict[str, Any]:
    """Seconds of a pass over about the same number of tokens, by the length of a prompt with one completion."""
    model = _model(folder, SMALL)
    rows = []
    for length in lengths:
        completion = length // 4
        count = max(1, tokens // PairLengths(length - completion, (completion, completion)).shared().positions)
        shape = {"prompt": length - completion, "completion": completion, "pairs": count}
        found = child.ask("growth", folder, do="passes", model=model, vocabulary=SMALL.vocabulary, **shape)
        rows.append(
            {
                "tokens": length,
                "pairs": count,
                "score, s": found["score, s"] / count,
                "train, s": found["train, s"] / count,
                "peak, bytes": found["peak, bytes"],
            }
        )
    return {"rows": rows, "exponents": _exponents(rows, "tokens", ["score, s", "train, s"])}


def by_vocabulary(folder: Path, vocabularies: Sequence[int], pairs: int) -> dict[str, Any]:
    """Seconds of a pass over the same pairs, by vocabulary."""
    rows = []
    for vocabulary in vocabularies:
        model = _model(folder, Shape(**{**asdict(SMALL), "vocabulary": vocabulary}))
        found = child.ask(
            "growth", folder, do="passes", model=model, vocabulary=vocabulary, prompt=96, completion=32, pairs=pairs
        )
        rows.append(
            {
                "vocabulary": vocabulary,
                "score, s": found["score, s"] / pairs,
                "train, s": found["train, s"] / pairs,
                "peak, bytes": found["peak, bytes"],
            }
        )
    return {"rows": rows, "exponents": _exponents(rows, "vocabulary", ["score, s", "train, s"])}


def by_processes(folder: Path, pairs: int) -> dict[str, Any]:
    """Scoring and training by one and two processes of one thread each."""
    here = folder / "processes"
    run = write_world(here, _model(folder, SMALL), pairs)
    child.ask("growth", folder, do="stage", stage="prepare", run=run)
    rows = []
    for processes in (1, 2):
        label = f"by-{processes}"
        sets = ["--set", f"score.store={here / label}", "--set", f"train.label={label}"]
        said = _launch(processes, ["score", run, *sets])
        _launch(processes, ["train", run, *sets])
        lines = (here / "out" / "train" / label / "metrics.jsonl").read_text().splitlines()
        rates = [json.loads(line)["perf/pairs_per_second"] for line in lines[1:]]
        rows.append(
            {
                "processes": processes,
                "scoring, tokens/s": _tokens_per_second(said),
                "training, pairs/s": statistics.median(rates),
            }
        )
    return {"rows": rows, "pairs": pairs}


def _tokens_per_second(said: str) -> int:
    """The rate that `score` says in its summary."""
    rate = re.search(r"([\d,]+) tokens/s", said)
    assert rate is not None, said
    return int(rate[1].replace(",", ""))


def _launch(processes: int, arguments: list[str]) -> str:
    # Not by `accelerate launch`, which starts one process on a CPU whatever it is told.
    many = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    command = [*many, "-m", "scoreonce.stages.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _model(folder: Path, shape: Shape) -> str:
    path = folder / f"model-{shape.vocabulary}"
    child.ask("compared.make_model", folder, model=str(path), shape=asdict(shape), dtype="float32")
    return str(path)


def _exponents(rows: list[dict[str, Any]], size: str, costs: list[str], last: int | None = None) -> dict[str, float]:
    """Over the `last` rows where small ones show a fixed cost, over all of them otherwise."""
    found = {}
    for cost in costs:
        known = [row for row in rows if cost in row]
        used = known[-last:] if last else known
        if len(used) > 1:
            found[cost] = exponent([row[size] for row in used], [row[cost] for row in used])
    return found


def measure(folder: Path, counts: Sequence[int], *, smoke: bool) -> dict[str, Any]:
    if smoke:
        *_, pairs = by_pairs(folder, (100, 400))
        return {"pairs": pairs, "length": by_length(folder, LENGTHS[:2], 512)}
    *_, pairs = by_pairs(folder, counts)
    return {
        "pairs": pairs,
        "length": by_length(folder, LENGTHS, TOKENS),
        "vocabulary": by_vocabulary(folder, VOCABULARIES, 8),
        "processes": by_processes(folder, 4_096),
    }


TITLES = {
    "pairs": "Number of pairs: seconds of each stage, `train` to its first step; exponents of the last two rows",
    "length": "Tokens of a prompt with one completion, a quarter of them the completion's: seconds a pair",
    "vocabulary": "Vocabulary, 96 + 2 x 32 tokens: seconds a pair",
    "processes": "Processes of one thread each",
}


def page(figures: dict[str, Any], title: str = "How cost grows") -> str:
    parts = [f"# {title}\n\n"]
    for name, title in TITLES.items():
        if name in figures:
            parts.append(f"## {title}\n\n{_table(figures[name])}\n")
    return "".join(parts)


def _table(part: dict[str, Any]) -> str:
    names = _columns(part["rows"])
    lines = [names, ["---"] * len(names), *([_cell(name, row.get(name)) for name in names] for row in part["rows"])]
    if found := part.get("exponents"):
        lines.append(["exponent", *(f"**{found[name]:.2f}**" if name in found else "" for name in names[1:])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace(", bytes |", ", MiB |")


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """The columns of any of the rows: the size, then times, then bytes; without those of the libraries."""
    names = list(dict.fromkeys(name for row in rows for name in row if not name.endswith("libraries, bytes")))
    return sorted(names, key=lambda name: name.endswith("bytes"))


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name.endswith("bytes"):
        return f"{value / MIB:,.0f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["pairs"], help="only this table")
    parser.add_argument("--pairs", type=int, nargs="+", help="numbers of pairs, instead of powers of ten")
    parser.add_argument("--least", type=int, default=1_000, help="pairs of the smallest run")
    parser.add_argument("--most", type=int, default=1_000_000, help="pairs of the largest run")
    parser.add_argument("--score-most", type=float, default=math.inf, help="most pairs that are scored and trained on")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    options = parser.parse_args()
    powers = range(int(math.log10(options.least)), int(math.log10(options.most)) + 1)
    counts = options.pairs or [10**power for power in powers]
    with tempfile.TemporaryDirectory() as folder:
        if options.only and not options.smoke:
            for pairs in by_pairs(Path(folder), counts, options.score_most):
                real_data.write("scale", {"pairs": pairs}, page({"pairs": pairs}, "How cost grows with the pairs"))
            return
        figures = measure(Path(folder), counts, smoke=options.smoke)
    real_data.write("growth", figures, page(figures), keep=not options.smoke)


if __name__ == "__main__":
    if child.asked():
        child.answer(answered)
    else:
        main()
