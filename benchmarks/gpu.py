"""scoreonce on a GPU: scoring and training of random-weight models of real shapes, beside a plain padded loop.

    python benchmarks/gpu.py [--smoke] [--out FOLDER] [--seconds 420] [--only 0.5B]

Needs torch, transformers, accelerate and numpy, and nothing else: no installed scoreonce, no tables, no network. On a
bare machine, with the tests that need a GPU (and pytest), from the root of the repository:

    python3 benchmarks/gpu.py --out "${OUT:-.}" && make .types/scoreonce &&
    PYTHONPATH=.types python3 -m pytest -W default -p no:cacheprovider --noconftest \\
        tests/pipeline/forward/test_cuda.py

Where jaxtyping is not installed, add :benchmarks/stand_ins to that path; its shapes have no effect on a run.

First the rate of a bf16 product. Then, for each shape of model and three profiles of lengths: pairs/s and the share of
the GPU's rate (MFU) in scoring and in training, peak memory; how far log-probs are from those of a float32 copy of the
model, beside padded rows; the head by chunk size, with its reductions compiled and not; the phases of a training step.
scoreonce runs packed rows with block masks, plain and with compiled blocks, or with variable-length flash attention,
under several token budgets, and prompt rows with SDPA's dense masks; the padded loop, benchmarks/gpu_padded.py, under
two budgets.

MFU counts what each side's own layout needs: 2 operations per weight and position, attention by the pairs of positions
that attend to each other, the head only for completion tokens, times 3 for training; padding and recomputation do not
count. Rows are drawn until they fill the sequences of a step, so that no sequence is partly empty.

No new measurement starts after --seconds; the output lists what was left out. gpu.json and gpu.md, in
benchmarks/results or the folder given, are written after each. --smoke runs tiny shapes on any device, as a test.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def _make_importable() -> None:
    """Make `import scoreonce` import this checkout, even if another one is installed."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (Path(folder) / "scoreonce").symlink_to(ROOT)
    sys.path.insert(0, folder)
    sys.path.append(str(ROOT / "benchmarks" / "stand_ins"))  # last, so that an installed package comes first


_make_importable()

import gpu_padded  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from gpu_models import PROFILES, SHAPES, SMOKE, Profile, Shape, operations, rows_that_fill  # noqa: E402
from gpu_parts import agreement, head_times, oracles, phases  # noqa: E402
from gpu_table import brief, table  # noqa: E402

from scoreonce.pipeline import methods  # noqa: E402
from scoreonce.pipeline.attention.last_layer import restore_attention  # noqa: E402
from scoreonce.pipeline.batches.microbatches import batcher_for  # noqa: E402
from scoreonce.pipeline.batches.prompt_rows import PromptRow, RowLayout, sequence_multiple  # noqa: E402
from scoreonce.pipeline.forward import layout_probe as probe  # noqa: E402
from scoreonce.pipeline.forward.scorer import TokenScorer  # noqa: E402
from scoreonce.pipeline.training.optimizer import Masters, gradient_norm, make_optimizer  # noqa: E402
from scoreonce.pipeline.training.step import Step  # noqa: E402
from scoreonce.stages.scoring.model_scorer import ModelScorer  # noqa: E402

# Dense bf16 by the vendor's datasheet, FLOP/s; elsewhere the measured product is the ceiling.
DATASHEET = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12}
GIB = 1 << 30


@dataclass(frozen=True)
class Variant:
    """How our side runs."""

    layout: RowLayout
    budget: int
    compiled: bool = False

    @property
    def name(self) -> str:
        return f"{self.layout}, {self.budget:,} tokens{', blocks compiled' if self.compiled else ''}"


# The most important first: the time may run out.
VARIANTS = (
    Variant("flex", 16_384),
    Variant("flash", 16_384),
    Variant("flex", 16_384, compiled=True),
    Variant("flash", 32_768),
    Variant("flex", 32_768, compiled=True),
)
PADDED = (8_192, 16_384)  # tokens of a micro-batch of the padded loop, all sequences as long as the longest
SEQUENCES = 4  # of scoreonce in a step


@dataclass
class Bench:
    """Where and how long to measure."""

    device: torch.device
    dtype: torch.dtype
    seconds: float
    smoke: bool
    started: float
    figures: dict[str, Any]
    out: Path

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object], repeats: int = 2) -> float:
        """Median seconds of `work`, synchronised, after one warm-up run."""
        work()
        seconds = []
        for _ in range(1 if self.smoke else repeats):
            self.wait()
            begun = time.perf_counter()
            work()
            self.wait()
            seconds.append(time.perf_counter() - begun)
        return statistics.median(seconds)

    def attempt(self, what: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """What `work` measures; None, and listed as left out, if time is up or the measurement fails."""
        if time.perf_counter() - self.started > self.seconds:
            self.figures["left out"].append(f"{what}: out of time")
            return None
        try:
            found = work()
        except Exception as error:  # the other measurements are still wanted
            traceback.print_exc()
            reason = (str(error).splitlines() or [""])[0][:160]
            self.figures["left out"].append(f"{what}: {type(error).__name__}, {reason}")
            found = None
        print(f"{time.perf_counter() - self.started:6.0f} s  {what}: {brief(found)}", flush=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return found

    def save(self) -> None:
        """Write the figures so far to gpu.json and gpu.md."""
        self.figures["measured"]["seconds"] = time.perf_counter() - self.started
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu.json").write_text(json.dumps(self.figures, indent=2) + "\n")
        (self.out / "gpu.md").write_text(table(self.figures))

    @contextmanager
    def peak(self, found: dict[str, Any]) -> Iterator[None]:
        """Record the peak of allocated memory in this block."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        yield
        if self.device.type == "cuda":
            found["peak GiB"] = torch.cuda.max_memory_allocated() / GIB


# ---- The two sides ------------------------------------------------------------------------------------------------


@dataclass
class Trained:
    """A model and its optimizer, shared by both sides: an update is the same work for each."""

    model: Any
    masters: Masters
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, model: Any, device: torch.device) -> Trained:
        masters = Masters.of(model.parameters())
        settings = SimpleNamespace(
            optimizer="adamw_torch_fused" if device.type == "cuda" else "adamw_torch",
            learning_rate=1e-7,
            weight_decay=0.0,
            adam_beta1=0.9,
            adam_beta2=0.999,
            adam_epsilon=1e-8,
        )
        return cls(model, masters, make_optimizer(model, masters, settings))

    def update(self) -> None:
        self.masters.take_gradients()
        norm = gradient_norm(self.masters.masters)
        torch.nn.utils.clip_grads_with_norm_(self.masters.masters, 1.0, torch.tensor(norm))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.masters.give_weights()


def both(
    bench: Bench,
    model: Any,
    rows: Sequence[PromptRow],
    score: Callable[[], object],
    train: Callable[[], object],
    *,
    shared: bool,
) -> dict[str, Any]:
    """Scoring and training of `rows`: pairs/s, operations/s and memory."""
    model.zero_grad()  # of one that failed
    found: dict[str, Any] = {"pairs in a step": len(rows)}
    needs = operations(model, rows, shared=shared)
    for name, work, factor in (("scoring", score, 1), ("training", train, 3)):
        memory: dict[str, Any] = {}
        with bench.peak(memory):
            seconds = bench.timed(work)
        found[f"{name}, pairs/s"] = len(rows) / seconds
        found[f"{name}, FLOP/s"] = factor * needs / seconds
        found |= {f"{name}, {key}": value for key, value in memory.items()}
    return found


def padded_side(bench: Bench, trained: Trained, rows: list[PromptRow], budget: int) -> dict[str, Any]:
    model, longest = trained.model, max(len(row.prompt) + max(map(len, row.completions)) for row in rows)
    micro = max(1, budget // (2 * longest))
    cached = torch.zeros(2, len(rows), device=bench.device)

    def train() -> None:
        gpu_padded.backward(model, rows, micro, cached)
        trained.update()

    return both(bench, model, rows, lambda: gpu_padded.scored(model, rows, micro), train, shared=False)


def our_side(bench: Bench, trained: Trained, rows: list[PromptRow], budget: int, layout: RowLayout) -> dict[str, Any]:
    model = trained.model
    scorer = TokenScorer(model, layout, multiple=sequence_multiple(budget))
    inference = ModelScorer(scorer, probe.Probe(layout, 0.0), budget)
    method = methods.resolve("dpo", {})
    step = Step(scorer, trained.masters.parameters, method, split=batcher_for(layout))
    zeros = torch.zeros(len(rows), dtype=torch.float64, device=bench.device)
    columns = {"ref_chosen_logps": zeros, "ref_rejected_logps": zeros}

    def train() -> None:
        outcome, _ = step(rows, columns, {}, budget)
        float(outcome.loss)
        trained.update()

    return both(bench, model, rows, lambda: inference.score(rows, lambda *_: None), train, shared=True)


# ---- The run ------------------------------------------------------------------------------------------------------


def gemm_rate(bench: Bench) -> float:
    """FLOP/s of a square bf16 product of random values."""
    size = 64 if bench.smoke else 8_192
    left, right = (torch.randn(size, size, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    repeats = 1 if bench.smoke else 20

    def products() -> None:
        for _ in range(repeats):
            torch.mm(left, right)

    return 2 * size**3 * repeats / bench.timed(products)


def measure_shape(
    bench: Bench, shape: Shape, profiles: Sequence[Profile], variants: Sequence[Variant], found: dict[str, Any]
) -> dict[str, Any]:
    """Measure both sides on one model into `found`, the most important first."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    with bench.device:
        model = transformers.AutoModelForCausalLM.from_config(shape.config, dtype=bench.dtype).eval()
    trained, vocabulary = Trained.of(model, bench.device), shape.config.vocab_size
    smallest, lines = min(variant.budget for variant in variants), 2 if bench.smoke else SEQUENCES
    rows = {profile.name: rows_that_fill(profile, vocabulary, smallest, lines) for profile in profiles}
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())

    def measured(what: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        return bench.attempt(f"{shape.name}, {what}", work)

    def switch(variant: Variant) -> None:
        restore_attention(model, before)
        probe.replace_attention_for(model, variant.layout, compiled=variant.compiled)

    sample, before = rows[profiles[0].name][:16], model.config._attn_implementation
    oracle = oracles(model, sample)
    for layout in dict.fromkeys(variant.layout for variant in variants):  # before any update of the weights
        switch(Variant(layout, smallest))
        found.setdefault("agreement", {})[layout] = measured(
            f"agreement of {layout}", lambda layout=layout: agreement(model, sample, layout, smallest, oracle)
        )
    restore_attention(model, before)
    for profile in profiles:
        for budget in PADDED:
            found["profiles"][profile.name]["padded"][f"{budget:,} tokens"] = measured(
                f"{profile.name}, padded loop, {budget:,} tokens",
                lambda profile=profile, budget=budget: padded_side(bench, trained, rows[profile.name], budget),
            )
    for variant in variants:
        switch(variant)
        for profile in profiles:
            # A larger budget takes more pairs per step, in as many sequences.
            own = rows_that_fill(profile, vocabulary, variant.budget, lines)
            made = measured(
                f"{profile.name}, ours, {variant.name}",
                lambda own=own, variant=variant: our_side(bench, trained, own, variant.budget, variant.layout),
            )
            found["profiles"][profile.name]["ours"][variant.name] = made
            bench.save()
    middle = profiles[len(profiles) // 2].name
    for plain in (variant for variant in variants if variant.budget == smallest and not variant.compiled):
        switch(plain)
        found[f"phases, {plain.layout}"] = measured(
            f"phases, {plain.layout}",
            lambda plain=plain: phases(bench, trained, rows[middle], smallest, plain.layout),
        )
    found["head"] = measured("head", lambda: head_times(bench, model, 16 if bench.smoke else 8_192))
    restore_attention(model, before)
    for profile in profiles:
        made = measured(
            f"{profile.name}, ours, dense masks",
            lambda profile=profile: our_side(bench, trained, rows[profile.name], smallest, "shared"),
        )
        found["profiles"][profile.name]["ours"]["dense masks"] = made
    bench.save()
    return found


def run(bench: Bench, name: str, only: str) -> None:
    """Fill and save the figures of `bench`, of the shapes whose name has `only` in it."""
    rate = gemm_rate(bench)
    ceiling = next((peak for key, peak in DATASHEET.items() if key in name), rate)
    print(f"{name}: bf16 product {rate / 1e12:.0f} TFLOP/s, MFU against {ceiling / 1e12:.0f}", flush=True)
    bench.figures |= {"bf16 product, FLOP/s": rate, "ceiling, FLOP/s": ceiling}
    shapes, variants, profiles = SHAPES, VARIANTS, PROFILES
    if bench.smoke:
        shapes, variants = (SMOKE,), (Variant("packed", 1_024),)
        profiles = tuple(Profile(profile.name, (20, 0.5), (12, 0.5), 64, 128) for profile in PROFILES)
    for shape in (shape for shape in shapes if only in shape.name):
        found: dict[str, Any] = {"profiles": {p.name: {"ours": {}, "padded": {}} for p in profiles}}
        bench.figures["shapes"][shape.name] = found
        bench.attempt(shape.name, lambda s=shape, f=found: measure_shape(bench, s, profiles, variants, f))
        bench.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on any device, as a test")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results", help="folder of gpu.json and gpu.md")
    parser.add_argument("--seconds", type=float, default=420, help="no measurement starts later than this")
    parser.add_argument("--only", default="", help="shapes whose name has this in it, e.g. 0.5B")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    if not cuda and not options.smoke:
        print("skipped: needs a CUDA GPU")
        return
    device, dtype = (torch.device("cuda"), torch.bfloat16) if cuda else (torch.device("cpu"), torch.float32)
    name = torch.cuda.get_device_name() if cuda else "cpu"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    measured = {"date": str(date.today()), "device": name, **versions, "dtype": str(dtype).removeprefix("torch.")}
    figures: dict[str, Any] = {"measured": measured, "shapes": {}, "left out": []}
    run(
        Bench(device, dtype, options.seconds, options.smoke, time.perf_counter(), figures, options.out),
        name,
        options.only,
    )
    print(table(figures))


if __name__ == "__main__":
    main()
