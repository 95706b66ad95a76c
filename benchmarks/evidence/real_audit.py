"""Does cleaning by a finding of the audit help on real text? The flaws of audit_helps.py, planted in short HH pairs.

    python benchmarks/evidence/real_audit.py [--pairs 256] [--seeds 2] [--model FOLDER] [--smoke]

DPO trains SmolLM2-135M-Instruct at the rate that real_text.py chose for it, whose table is read, and is judged on
held-out pairs without flaws, of other prompts. What is done is kept in the folder. Writes
benchmarks/results/evidence/real_audit.parquet (a row per training), and prints the page's part on it. Needs what
real_text.py needs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # what the benchmarks share

import machine
import page
import polars as pl
import real_data
import real_text
from audit_helps import ARMS, CLEAN, UNPLANTED, Cleaning, cleaned, flagged, planned
from plants import PLANTS, Plant

from scoreonce import Run, evaluate, prepare, score, train
from scoreonce.pipeline.evaluation.held_out import win_scores
from scoreonce.pipeline.evaluation.intervals import Interval
from scoreonce.pipeline.evaluation.standings import ERROR, difference
from scoreonce.schemas import metrics
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.training_runs import metric_lines

TABLE = page.TABLES / "real_audit.parquet"
SOURCE = "hh"
SHORT = 110  # tokens of prompt and completion: a side of one pair in seven is longer
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
    return pl.read_parquet(paths.evaluation_pairs)


def audited(name: str, seed: int, folder: Path, model: Path, pairs: real_text.Parts) -> tuple[Run, pl.DataFrame]:
    """The run of the pairs with a flaw, scored and audited, and of each pair: `row`, `planted`, `flagged`."""
    plant = FLAWS.get(name, UNPLANTED)
    train, held_out = ([{**row, **SCORES} for row in part] for part in pairs)
    rows = plant.rows(train, random.Random(seed))
    run = real_text.prepared(folder / f"{name}-seed{seed}", (rows, held_out), model, 1).replace(
        {"score.full_vocab": "none", **plant.data}
    )
    prepare(run)
    score(run)
    return run, flagged(run, rows, plant)


def trained(cleaning: Cleaning, run: Run, found: pl.DataFrame) -> tuple[dict[str, Any], pl.DataFrame]:
    """A training in numbers, and the held-out pairs of its evaluation."""
    settings = {**cleaned(cleaning, found), "train.seed": cleaning.seed, "train.label": cleaning.arm}
    run = run.replace(settings)
    pairs = pairs_of(run)
    row = {
        **cleaning._asdict(),
        "flagged": int(found["flagged"].sum()),
        "planted": int(found["planted"].sum()),
        "planted_flagged": int((found["flagged"] & found["planted"]).sum()),
        "pairs": len(found),
        "accuracy": win_scores(pairs)["accuracy"].mean(),
        "seconds": sum(line[metrics.SECONDS] for line in metric_lines(RunPaths.of(run))),
    }
    return row, pairs


def compared(tables: dict[Cleaning, pl.DataFrame], plant: str) -> dict[str, Interval]:
    """Differences in held-out accuracy over the same pairs: what the flaw costs, and what the audit's arm has more than
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


def section(said: str, rows: pl.DataFrame, tables: dict[Cleaning, pl.DataFrame]) -> list[str]:
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
        gaps = " | ".join(real_text.points(each) for each in found.values())
        lines.append(f"| {flaw.title} | {share} | {dropped:.0%} | {accuracies} | {gaps} | {verdict(found)} |")
    clean = rows.filter(pl.col("plant") == CLEAN)["accuracy"].mean()
    return [*lines, "", f"Without a flaw: {clean:.1%}."]


def rate() -> float:
    """DPO's rate, as real_text.py chose it by its validation pairs."""
    own = real_text.chosen(pl.read_parquet(page.TABLES / f"real_{SOURCE}.parquet"))
    return float(own.filter(pl.col("method") == real_text.BASE)["rate"][0])


def study(folder: Path, model: Path, pairs: int, seeds: int, settings: dict[str, Any]) -> list[str]:
    """Train what is not done, saying how each went; the page's part, and the table in the folder."""
    source = real_data.folder() / "data/prefs" / real_text.SOURCES[SOURCE]
    parts = real_text.rows(source, pairs)
    every, rows, tables = planned(seeds), [], {}
    for (name, seed), arms in groupby(every, key=lambda each: (each.plant, each.seed)):
        run, found = audited(name, seed, folder, model, parts)
        for each in arms:
            row, tables[each] = trained(each, run.replace(settings), found)
            rows.append(row)
            print(
                f"{len(rows)}/{len(every)}: {name}, {each.arm}, seed {seed}: accuracy {row['accuracy']:.1%}", flush=True
            )
    table = pl.DataFrame(rows)
    table.write_parquet(folder / TABLE.name)
    said = (
        f"{model.name}, {pairs} pairs, one epoch at a rate of {settings['train.learning_rate']:g}, {seeds} seeds; "
        f"{len(tables[every[0]])} held-out pairs. {len(every)} trainings, {table['seconds'].sum() / 60:.0f} minutes on "
        f"{machine.described()['machine']}. `python benchmarks/evidence/real_audit.py`"
    )
    return section(said, table, tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--model", type=Path, help="a model folder in the place of SmolLM2-135M-Instruct")
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence-real"))
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    options = parser.parse_args()
    dpo = {"train.method": real_text.BASE, "train.beta": 0.1}
    if options.smoke:
        with tempfile.TemporaryDirectory() as folder:
            model = real_data.folder() / "data/models/hh-llama-2.8M"
            print("\n".join(study(Path(folder), model, 32, 1, {**dpo, "train.learning_rate": 1e-4})))
        return
    model = options.model or real_text.smollm2(options.folder / real_text.NAME)
    folder = options.folder / f"audit-{model.name}"
    lines = study(folder, model, options.pairs, options.seeds, {**dpo, "train.learning_rate": rate()})
    shutil.copy(folder / TABLE.name, TABLE)
    print(
        "\n".join(lines),
        "\nThis part goes into docs/evidence-audit.md by hand: it does not follow from the table alone.",
    )


if __name__ == "__main__":
    main()
