"""Does cleaning by a finding of the audit help on real text? The flaws of audit_helps.py, in short AlpacaEval pairs.

    python benchmarks/evidence/real_audit.py [--pairs 256] [--seeds 2] [--model FOLDER] [--smoke]

DPO trains SmolLM2-135M-Instruct at the rate that real_text.py chose for it, whose table is read, and is judged on that
command's test pairs, which have no flaws and other prompts. Keeps all held-out pairs of each training in
benchmarks/results/evidence/real_audit.parquet, and does not train again what is there. Prints the part of
docs/evidence-audit.md, and writes it there, with docs/evidence/real_audit.svg. Needs what real_text.py needs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # what the benchmarks share

import page
import polars as pl
import real_data
import real_page
import real_text
from audit_helps import ARMS, CLEAN, UNPLANTED, Cleaning, cleaned, flagged, planned
from audit_page import FIGURE, PAGE, draw
from kept import Kept, latest
from over_pairs import ERROR, difference
from plants import PLANTS, Plant

from scoreonce import Run, evaluate, prepare, score, train
from scoreonce.pipeline.evaluation.held_out import win_scores
from scoreonce.pipeline.evaluation.intervals import Interval
from scoreonce.schemas import metrics
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.training_runs import metric_lines

TEST = real_page.SPLITS[1]
TABLE = page.TABLES / "real_audit.parquet"
DRAWN = FIGURE.with_name("real_audit.svg")
START = "<!-- made by benchmarks/evidence/real_audit.py -->\n"
COMMAND = "python benchmarks/evidence/real_audit.py"
SOURCE = "alpaca"  # of 256 HH pairs this model learns nothing, so that no flaw could cost it anything
SHORT = 115  # tokens of prompt and completion: a side of one pair in seven is longer
# A pair's own judgement as scores: a judge who errs by 1 prefers the other side of 24 %.
SCORES = {"chosen_score": 1.0, "rejected_score": 0.0}
FLAWS: dict[str, Plant] = {
    **PLANTS,
    "truncation": replace(PLANTS["truncation"], title=f"pairs cut at {SHORT} tokens", data={"data.max_length": SHORT}),
}


def pairs_of(run: Run) -> pl.DataFrame:
    """The held-out pairs of a training's evaluation; trained and evaluated now if it is not done."""
    paths = RunPaths.of(run)
    if not paths.evaluation_pairs.is_file():
        train(run)
        evaluate(run)
    for read_no_more in (paths.policy, paths.checkpoints):  # 4 GB
        shutil.rmtree(read_no_more, ignore_errors=True)
    return real_text.with_prompts(pl.read_parquet(paths.evaluation_pairs), paths)


def audited(name: str, seed: int, folder: Path, model: Path, pairs: real_text.Parts) -> tuple[Run, pl.DataFrame]:
    """The run of the pairs with a flaw, scored and audited, and of each pair: `row`, `planted`, `flagged`."""
    plant = FLAWS.get(name, UNPLANTED)
    train, held_out = ([{**row, **SCORES} for row in part] for part in pairs)
    rows = plant.rows(train, random.Random(seed))
    run = real_text.prepared(folder / f"{name}-seed{seed}", (rows, held_out), model, 1).replace(
        {"score.full_vocab": "none", "score.store": str(folder / "store"), **plant.data}  # most texts are in every run
    )
    prepare(run)
    score(run)
    return run, flagged(run, rows, plant)


def keep(cleaning: Cleaning, run: Run, found: pl.DataFrame, kept: Kept) -> None:
    """Train, and keep the held-out pairs of its evaluation."""
    settings = {**cleaned(cleaning, found), "train.seed": cleaning.seed, "train.label": cleaning.arm}
    run = run.replace(settings)
    pairs = pairs_of(run)
    counts = {
        "flagged": int(found["flagged"].sum()),
        "planted": int(found["planted"].sum()),
        "planted_flagged": int((found["flagged"] & found["planted"]).sum()),
        "pairs": len(found),
        "seconds": sum(line[metrics.SECONDS] for line in metric_lines(RunPaths.of(run))),
    }
    kept.add(pairs.with_columns(**{key: pl.lit(value) for key, value in counts.items()}), cleaning._asdict(), [*counts])


def done(table: pl.DataFrame | None, every: Sequence[Cleaning]) -> dict[Cleaning, pl.DataFrame]:
    """The test pairs of those trainings that are kept: other held-out pairs chose the rate.

    A run that cuts its training pairs cuts its held-out ones too. A cut pair is another one, with an id of its own, and
    is left out: only pairs of the data without a flaw count.
    """
    if table is None:
        return {}
    tested = table.filter(real_text.split_of(pl.col("prompt_id")) == TEST)
    whole = tested.filter(pl.col("plant") == CLEAN)["pair_id"].unique()
    tested = tested.filter(pl.col("pair_id").is_in(whole.implode()))
    each = {cleaning: tested.filter(**cleaning._asdict()) for cleaning in every}
    return {cleaning: pairs for cleaning, pairs in each.items() if len(pairs)}


def per_training(tables: Mapping[Cleaning, pl.DataFrame]) -> pl.DataFrame:
    """A row per training: its keys, counts, seconds, and `accuracy` on the test pairs."""
    same = ("plant", "arm", "seed", "flagged", "planted", "planted_flagged", "pairs", "seconds")
    return pl.concat(
        [
            pairs.select(*same).head(1).with_columns(accuracy=pl.lit(win_scores(pairs)["accuracy"].mean()))
            for pairs in tables.values()
        ]
    )


def compared(tables: Mapping[Cleaning, pl.DataFrame], plant: str) -> dict[str, Interval]:
    """Differences in test accuracy over the same pairs: what the flaw costs, and what the audit's arm has more than
    the two that decide, whose intervals hold together (Bonferroni).
    """
    of = {arm: [rows for each, rows in tables.items() if each[:2] == (plant, arm)] for arm in ARMS}
    clean = [rows for each, rows in tables.items() if each.plant == CLEAN]
    decide = {arm: difference(of["audit"], of[arm], ERROR / 2) for arm in ("all", "random")}
    return {"flaw": difference(clean, of["all"]), **decide}


def verdict(found: dict[str, Interval]) -> str:
    """Whether cleaning helps: better than no cleaning and than as many pairs at random."""
    decide = [found["all"], found["random"]]
    if any(each.high < 0 for each in decide):
        return "does not help"
    return "helps" if all(each.low > 0 for each in decide) else "cannot be told here"


def section(said: str, rows: pl.DataFrame, tables: Mapping[Cleaning, pl.DataFrame]) -> list[str]:
    """The page's part."""
    lines = [
        said,
        "",
        "| planted | planted pairs found | dropped | accuracy, all / audit / random | what the flaw costs, points | "
        "audit − all | audit − random | helps? |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, flaw in FLAWS.items():
        own = rows.filter(pl.col("plant") == name)
        found = compared(tables, name)
        planted = int(own["planted"].sum())
        share = f"{own['planted_flagged'].sum() / planted:.0%}" if planted else ""
        dropped = own["flagged"].sum() / own["pairs"].sum()
        accuracies = " / ".join(f"{own.filter(pl.col('arm') == arm)['accuracy'].mean():.1%}" for arm in ARMS)
        gaps = " | ".join(real_page.points(each) for each in found.values())
        lines.append(f"| {flaw.title} | {share} | {dropped:.0%} | {accuracies} | {gaps} | {verdict(found)} |")
    clean = rows.filter(pl.col("plant") == CLEAN)["accuracy"].mean()
    lines += ["", f"Without a flaw: {clean:.1%}.", ""]
    return [*lines, f"![Test accuracy of every training](evidence/{DRAWN.name})"]


def rate(chosen_on: pl.DataFrame) -> float:
    """DPO's rate, as real_text.py chose it by its validation pairs."""
    own = real_page.chosen(real_page.figures(chosen_on))
    return float(own.filter(pl.col("method") == real_page.BASE)["rate"][0])


def named(model: str, learning_rate: float) -> str:
    """What trainings of a model and its pairs are kept under."""
    return f"{model} at a rate of {learning_rate:g}"


def study(folder: Path, model: Path, parts: real_text.Parts, seeds: int, settings: dict[str, Any], kept: Kept) -> None:
    """Train what is not kept, saying how each went."""
    every = planned(seeds)
    for (name, seed), group in groupby(every, key=lambda each: (each.plant, each.seed)):
        left = [each for each in group if not kept.has(**each._asdict())]
        if not left:
            continue
        run, found = audited(name, seed, folder, model, parts)
        for each in left:
            keep(each, run.replace(settings), found, kept)
            tables = done(kept.table(), every)
            accuracy = win_scores(tables[each])["accuracy"].mean()
            print(f"{len(tables)}/{len(every)}: {name}, {each.arm}, seed {seed}: accuracy {accuracy:.1%}", flush=True)


def reported(table: pl.DataFrame | None, seeds: int) -> list[str]:
    """The page's part, once every training is kept."""
    every = planned(seeds)
    tables = done(table, every)
    if table is None or len(tables) < len(every):
        return [f"Real pairs: {len(tables)} of {len(every)} trainings are done. `{COMMAND}`"]
    rows = per_training(tables)
    said = (
        f"{table['model'][0]}, one epoch, {seeds} seeds; {len(tables[every[0]])} test pairs. {len(every)} "
        f"trainings, {rows['seconds'].sum() / 60:.0f} minutes of training on "
        f"{', '.join(table['machine'].unique().sort())}. `{COMMAND}`"
    )
    return section(said, rows, tables)


def write() -> None:
    """The page's part, and its figure once every training is kept."""
    page.replace(PAGE, START, generated())
    chosen_on = real_page.finished(SOURCE)
    tables = {} if chosen_on is None else done(_on_disk(chosen_on), planned(real_page.SEEDS))
    if len(tables) == len(planned(real_page.SEEDS)):
        draw(per_training(tables), DRAWN, {"accuracy": "test accuracy"})


def generated() -> str:
    """The page's part, from the tables on disk."""
    chosen_on = real_page.finished(SOURCE)
    if chosen_on is None:
        return f"Real pairs: not run; `{real_page.command(SOURCE)}` has to choose a rate first. `{COMMAND}`\n"
    return "\n".join([*reported(_on_disk(chosen_on), real_page.SEEDS), ""])


def _on_disk(chosen_on: pl.DataFrame) -> pl.DataFrame | None:
    return latest(TABLE, named(real_page.MODEL, rate(chosen_on)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=real_page.PAIRS)
    parser.add_argument("--seeds", type=int, default=real_page.SEEDS)
    parser.add_argument("--model", type=Path, help="a model folder in the place of SmolLM2-135M-Instruct")
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence-real"))
    parser.add_argument("--report", action="store_true", help="train nothing: report what is kept")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    options = parser.parse_args()
    dpo = {"train.method": real_page.BASE, "train.beta": 0.1}
    if options.smoke:
        with tempfile.TemporaryDirectory() as folder:
            model = real_data.folder() / "data/models/hh-llama-2.8M"
            kept = Kept(Path(folder) / "kept.parquet", model.name, "smoke")
            study(Path(folder), model, real_text.parts_of(SOURCE, 32), 1, {**dpo, "train.learning_rate": 1e-4}, kept)
            print("\n".join(reported(kept.table(), 1)))
        return
    name = options.model.name if options.model else real_page.NAME
    parts = real_text.parts_of(SOURCE, options.pairs)
    chosen_on = real_text.kept_on(SOURCE, name, parts)
    table = chosen_on.table()
    if table is None or set(table.filter(method=real_page.BASE)["rate"]) != set(real_page.RATES):
        raise SystemExit(f"Run real_text.py {SOURCE} with the same --model and --pairs first: it chooses the rate.")
    learning_rate = rate(table)
    kept = Kept(TABLE, named(chosen_on.model, learning_rate), chosen_on.data)
    if not options.report:
        model = options.model or real_text.smollm2(options.folder / "model")
        folder = options.folder / f"audit-{kept.data}"
        study(folder, model, parts, options.seeds, {**dpo, "train.learning_rate": learning_rate}, kept)
    print("\n".join(reported(kept.table(), options.seeds)))
    write()


if __name__ == "__main__":
    main()
