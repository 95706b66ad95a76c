"""scoreonce beside TRL 1.16 in one run: same model, same tokens, same pairs in each step, taken in turn.

    python benchmarks/peers.py [--rounds 2] [--device cpu] [--dtype float32] [--smoke]

Every measurement is a process of its own. For three length profiles: scoring (TRL: its reference pass), training
steps, peak memory, start-up to the end of the first step with warm caches; then a sweep of 5 methods x 3 betas, where
the time of a step goes, and a DPO step against a plain SFT step. TRL runs twice: as it comes (8 pairs in a
micro-batch) and with the fastest of several micro-batch sizes, searched first. The share of the GEMM rate counts what
each side's own layout needs, without padding: scoreonce runs a prompt once per pair, TRL once per completion, so
shares do not divide into the ratio of pairs/s.

Writes benchmarks/results/peers.json and peers.md, the table of README.md and the section of docs/benchmarks.md.
Another device or dtype than float32 on a CPU is written beside, as peers_cuda_bfloat16 and so on, and stays out of
both. In bfloat16 TRL's optimizer works on bfloat16 weights, scoreonce's on float32 masters, as each does by default.
Nothing else may run beside it. Without the shared real data (SCOREONCE_SHARED) the pairs are generated.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import child
import machine
import real_data
from compared import figures, tables
from compared.profiles import HH, PROFILES, Profile, TokenPair
from compared.world import SHAPE, write_pairs
from flops import Shape

LEARNING_RATE = 5e-5
LOSSES_APART = {"float32": 1e-3, "bfloat16": 0.1}  # of a step, on the two sides
MICRO_BATCHES = (1, 2, 4, 8)  # pairs that TRL is tried with
TRLS_OWN = 8  # pairs of its default micro-batch
SWEEP = {"dpo": "sigmoid", "ipo": "ipo", "hinge": "hinge", "robust": "robust", "exo": "exo_pair"}  # ours: TRL's
SMOOTHED, SMOOTHING = ("robust", "exo"), 0.1
BETAS = (0.05, 0.1, 0.5)
RUN_FILE = """
out = "{ours}"
[data]
source = "{pairs_file}"
max_length = {max_length}
test_share = 0
[reference]
model = "{model}"
dtype = "{dtype}"
[compute]
device = "{device}"
[train]
learning_rate = {learning_rate}
warmup_ratio = 0
batch_pairs = {batch}
max_steps = {steps}
shuffle = false
"""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    batch: dict[str, int]  # pairs of a step, by profile
    steps: int
    sweep: int  # pairs, all in one step
    search: Sequence[int]  # micro-batch sizes tried for TRL
    repeats: int  # of the steps that DPO and SFT are compared over
    methods: int
    betas: int
    profiles: int
    shape: Shape = SHAPE


# TRL trains 2 to 4 HH pairs a second on two cores: this takes about a quarter of an hour there, most of it TRL's.
FULL = Size(2, {"hh": 16, "completions": 8, "multi_turn": 4}, 3, 16, MICRO_BATCHES, 2, 5, 3, 3)
# One round of the first profile on a small model: whether everything runs, not how fast.
SMOKE = Size(1, {"hh": 4}, 2, 4, (2, 4), 1, 2, 1, 1, Shape(64, 2, 2, 128, SHAPE.vocabulary))


@dataclass(frozen=True)
class Where:
    """What both sides compute on, and in."""

    device: str
    dtype: str

    @property
    def results(self) -> str:
        """Name of the results; float32 on a CPU has two, because AVX-512 makes a difference there."""
        if self == Where("cpu", "float32"):
            return (tables.AVX512 if machine.has_avx512() else tables.AVX2).stem
        return f"peers_{self.device}_{self.dtype}"


@dataclass(frozen=True)
class Case:
    """A profile laid out on disk for both sides."""

    profile: Profile
    folder: Path
    order: dict[str, Any]
    pairs: list[TokenPair]

    @property
    def name(self) -> str:
        return self.profile.name

    def ask(self, module: str, **more: Any) -> dict[str, Any]:
        return child.ask(f"compared.{module}", self.folder, **self.order | more)

    def ours(self, do: str, **more: Any) -> dict[str, Any]:
        return self.ask("ours", do=do, **more)

    def trl(self, do: str, **more: Any) -> dict[str, Any]:
        return self.ask("trl_side", do=do, **more)

    def sizes(self, tried: Sequence[int]) -> list[int]:
        """The micro-batch sizes that divide a step."""
        return [size for size in tried if self.order["batch"] % size == 0]

    @property
    def untuned(self) -> dict[str, int]:
        """Micro-batch sizes of TRL as it comes."""
        return dict.fromkeys(("score", "train"), min(TRLS_OWN, self.order["batch"]))

    def run_of(self, number: int) -> str:
        """The run file of a round, with outputs of its own."""
        path = self.folder / f"run-{number}.toml"
        own = f'[score]\nstore = "{self.folder / f"store-{number}"}"\n'
        label = f'label = "round-{number}"\n'
        path.write_text(Path(self.order["run"]).read_text() + label + own)
        return str(path)


def laid_out(profile: Profile, folder: Path, model: Path, where: Where, pairs: int, steps: int) -> Case:
    """Write pairs and run file."""
    folder.mkdir()
    made = profile.pairs(pairs, real_data.found())
    write_pairs(folder / "pairs.jsonl", made)
    order = {
        "pairs_file": str(folder / "pairs.jsonl"),
        "pairs": len(made),
        "batch": pairs // steps,
        "steps": steps,
        "max_length": profile.max_length,
        "model": str(model),
        **asdict(where),
        "learning_rate": LEARNING_RATE,
        "run": str(folder / "run.toml"),
        "ours": str(folder / "ours"),
        "out": str(folder / "trl"),
        "cache": str(folder / "cache"),
    }
    (folder / "run.toml").write_text(RUN_FILE.format(**order))
    return Case(profile, folder, order, made)


def fastest(seconds: dict[str, float]) -> int:
    """The micro-batch size with the least time a pair."""
    return int(min(seconds, key=seconds.__getitem__))


def measure_round(case: Case, micro: dict[str, int], number: int) -> figures.Round:
    """Both sides once, in turn; each starts from nothing scored, and trains from what it scored."""
    tuned, default = (
        {
            "micro": sizes,
            "cache": str(case.folder / f"cache-{name}-{number}"),
            "out": str(case.folder / f"trl-{name}-{number}"),
        }
        for name, sizes in (("tuned", micro), ("default", case.untuned))
    )
    run = case.run_of(number)
    answers = {
        "trl score": case.trl("score", **tuned),
        "ours score": case.ours("score", run=run),
        "default score": case.trl("score", **default),
        "trl train": case.trl("train", **tuned),
        "ours train": case.ours("train", run=run),
        "default train": case.trl("train", **default),
    }
    if answers["trl score"]["digest"] != case.order["digest"]:
        sys.exit(f"{case.name}: the two sides made different token ids of the same text")
    apart = figures.losses_apart(answers)
    if not apart < LOSSES_APART[case.order["dtype"]]:
        sys.exit(f"{case.name}: the losses of the two sides are {apart:.1e} apart")
    return answers


def sweep(case: Case, micro: dict[str, int], size: Size) -> dict[str, Any]:
    """All methods with all betas on both sides: seconds in total and passes of the reference over the pairs."""
    runs = [(method, beta) for method in list(SWEEP)[: size.methods] for beta in BETAS[: size.betas]]
    more = {"runs": runs, "smoothed": SMOOTHED, "smoothing": SMOOTHING}
    answers = {
        "trl": case.trl("sweep", micro=micro, names=SWEEP, **more),
        "ours": case.ours("sweep", **more),
        "default": case.trl("sweep", micro=case.untuned, names=SWEEP, **more),
    }
    keep = ("seconds", "reference passes")
    return {
        "runs": len(runs),
        "pairs": case.order["pairs"],
        "steps": case.order["steps"],
        **{side: {name: answer[name] for name in keep} for side, answer in answers.items()},
        "ratio": {side: answers[side]["seconds"] / answers["ours"]["seconds"] for side in ("default", "trl")},
    }


def measure(folder: Path, size: Size, where: Where) -> dict[str, Any]:
    """Everything."""
    model = folder / "model"
    child.ask("compared.make_model", folder, model=str(model), shape=asdict(size.shape), dtype=where.dtype)
    cases = [
        laid_out(profile, folder / profile.name, model, where, size.batch[profile.name] * size.steps, size.steps)
        for profile in PROFILES[: size.profiles]
    ]
    for case in cases:
        case.order["digest"] = case.ours("prepare")["digest"]
    say("micro-batch sizes for TRL")
    searches = {case.name: case.trl("search", sizes=case.sizes(size.search), micro=None) for case in cases}
    micro = {name: {what: fastest(found[what]) for what in ("score", "train")} for name, found in searches.items()}
    rounds: dict[str, list[figures.Round]] = {case.name: [] for case in cases}
    for number in range(size.rounds):
        for case in cases:
            say(f"round {number + 1} of {size.rounds}, {case.profile.title}")
            rounds[case.name].append(measure_round(case, micro[case.name], number))
    say("phases, and SFT beside DPO")
    inside = {case.name: case.ask("inside", run=case.run_of(0), repeats=size.repeats) for case in cases}
    say("sweep")
    swept = sweep(laid_out(HH, folder / "sweep", model, where, size.sweep, 1), micro["hh"], size)
    gemm = [inside[case.name]["GEMM, FLOP/s"] for case in cases]
    return {
        **asdict(where),
        "pairs are real": real_data.found() is not None,
        "model": {**asdict(size.shape), "parameters": size.shape.parameters},
        "GEMM, FLOP/s": {name: statistics.median(rate[name] for rate in gemm) for name in ("float32", "bfloat16")},
        "profiles": {
            case.name: {
                "title": case.profile.title,
                **figures.compared(rounds[case.name], case.pairs, case.order["batch"], size.shape),
                "TRL's micro-batches": micro[case.name],
                "TRL's seconds a pair by micro-batch": {what: searches[case.name][what] for what in ("score", "train")},
                "inside": figures.inside(inside[case.name], case.pairs, size.shape),
            }
            for case in cases
        },
        "sweep": swept,
    }


def say(what: str) -> None:
    print(f"peers: {what}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=FULL.rounds)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=list(LOSSES_APART), help="float32 on a CPU, bfloat16 on CUDA by default")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    options = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        print("skipped: needs TRL, pip install 'scoreonce[dev]'")
        return
    size = SMOKE if options.smoke else replace(FULL, rounds=options.rounds)
    where = Where(options.device, options.dtype or ("bfloat16" if options.device == "cuda" else "float32"))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), size, where)
    real_data.write(where.results, found, tables.page(found), keep=not options.smoke)
    if not options.smoke:
        tables.into_documents()


if __name__ == "__main__":
    main()
