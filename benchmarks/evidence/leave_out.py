"""Which measures of a pair predict that training is better without it? A quarter of the pairs is left out by each.

    python benchmarks/evidence/leave_out.py [--seeds 5] [--folder runs/evidence] [--report] [--smoke]

A fifth of the labels is wrong. DPO trains without the quarter that a measure ranks first, and without a quarter drawn
at random; as many pairs and steps for all. Results of trainings are kept in the folder. Writes
benchmarks/results/evidence/leave_out.parquet (one row per training), docs/evidence/leave_out.svg, and a generated part
of docs/evidence-audit.md. One thread is fastest: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import audit_helps
import page
import polars as pl
from audit_helps import DPO, margins, without
from drawn import dots, save
from paired import ERROR, adjusted, difference
from trials import Trials, judged, trained
from world import World

from scoreonce import Run, audit
from scoreonce.stages.common.paths import RunPaths

SHARE, FLIPS = 0.25, 0.2
RANDOM = "random"
TABLE = page.TABLES / "leave_out.parquet"
FIGURE = audit_helps.audit_page.FIGURE.with_name("leave_out.svg")
START = "<!-- made by benchmarks/evidence/leave_out.py -->\n"


class Measure(NamedTuple):
    """What pairs are ranked by, a column of `measured`, and what stands first."""

    title: str
    first: pl.Expr


MEASURES = {
    "unseen": Measure("margin of a policy that has not seen the pair, lowest", pl.col("unseen")),
    "seen": Measure("margin after training on all pairs, lowest", pl.col("seen")),
    "seen-high": Measure("margin after training on all pairs, highest", -pl.col("seen")),
    "reference": Measure("reference margin, lowest", pl.col("ref_margin")),
    "reference-high": Measure("reference margin, highest", -pl.col("ref_margin")),
    "ches": Measure("CHES, highest", -pl.col("ref_ln_ches")),
    "length": Measure("length gap, either way, largest", -(pl.col("chosen_len") - pl.col("rejected_len")).abs()),
    "similar": Measure("similarity of the sides, highest", -pl.col("similarity")),
}


class LeftOut(NamedTuple):
    """A training without the quarter that `arm` ranks first. The seed also draws the random quarter."""

    arm: str
    seed: int

    @property
    def key(self) -> str:
        """What results are kept under."""
        return json.dumps(["leave_out", *self])


def planned(seeds: int) -> list[LeftOut]:
    """Every training, the first seed's first."""
    return [LeftOut(arm, seed) for seed in range(seeds) for arm in (RANDOM, *MEASURES)]


def result(each: LeftOut, trials: Trials) -> dict[str, Any]:
    """What a training gave; done now if it is not."""
    return trials.kept(each.key, lambda: _run(each, trials.world))


def _run(each: LeftOut, world: World) -> dict[str, Any]:
    run, pairs = measured(world, each.seed)
    left = left_out(pairs, each.arm, each.seed)
    policy, metrics = trained(run.replace({**DPO, **without(left["row"].to_list()), "train.seed": each.seed}))
    flipped = {"flipped": int(left["flipped"].sum()), "left_out": len(left), "all_flipped": int(pairs["flipped"].sum())}
    return {**flipped, **metrics, **judged(policy, world)}


def left_out(pairs: pl.DataFrame, arm: str, seed: int) -> pl.DataFrame:
    """The quarter of the pairs that an arm leaves out: those that its measure ranks first, without missing values."""
    count = round(SHARE * len(pairs))
    if arm == RANDOM:
        return pairs[random.Random(seed).sample(range(len(pairs)), count)]
    return pairs.sort(MEASURES[arm].first, nulls_last=True, maintain_order=True).head(count)


@lru_cache(maxsize=1)  # the arms of a seed come after each other
def measured(world: World, seed: int) -> tuple[Run, pl.DataFrame]:
    """The run of a seed's pairs with wrong labels, scored and audited, and of each pair: `row`, the audit's measures,
    `flipped`, and the margins (nats) of a policy trained on all pairs, `seen`, and of the one of two that was trained
    on the other half, `unseen`.
    """
    run = world.data(seed, FLIPS, "all")
    audit(run)
    found = pl.read_parquet(RunPaths.of(run).audit_pairs)
    texts = [json.loads(line) for line in Path(run.data.source).read_text(encoding="utf-8").splitlines()]
    flipped = [text["chosen"] != row["chosen"] for text, row in zip(texts, world.pairs(seed), strict=True)]
    texts, flipped = ([each[row] for row in found["row"]] for each in (texts, flipped))
    halves = _halves(found["row"].to_list(), seed)
    seen, *others = (_margins(run, left, texts, seed, world) for left in ((), *halves))
    first = found["row"].is_in(halves[0])
    return run, found.with_columns(
        flipped=pl.Series(flipped),
        seen=pl.Series(seen),
        unseen=pl.select(pl.when(first).then(pl.Series(others[0])).otherwise(pl.Series(others[1]))).to_series(),
    )


def _halves(rows: list[int], seed: int) -> tuple[list[int], list[int]]:
    drawn = random.Random(seed).sample(rows, len(rows))
    return drawn[: len(rows) // 2], drawn[len(rows) // 2 :]


def _margins(run: Run, left: Sequence[int], texts: list[dict[str, Any]], seed: int, world: World) -> list[float]:
    """Margins of a policy that was trained without the pairs `left`, for all."""
    policy, _ = trained(run.replace({**DPO, **without(left), "train.seed": seed}))
    return list(margins(policy, texts, world).tolist())


def table(trials: Trials, seeds: int) -> pl.DataFrame:
    """One row per training, of the seeds whose every training is done."""
    return audit_helps.finished(planned(seeds), trials)


def generated(rows: pl.DataFrame) -> str:
    """The differences of each measure to the random quarter, with Holm's correction over all."""
    found = [difference(rows, arm, RANDOM, "test_reward", each.title) for arm, each in MEASURES.items()]
    drawn = rows.filter(pl.col("arm") == RANDOM)
    lines = [
        f"| left out: the quarter with | of the {FLIPS:.0%} wrong labels | reward, against a random quarter | "
        "95 % interval | p (Holm) | predicts? | seeds to tell |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (arm, each), p, compared in zip(MEASURES.items(), adjusted(found), found, strict=True):
        own, interval = rows.filter(pl.col("arm") == arm), compared.interval
        wrong = own["all_flipped"].sum()
        share = f"{own['flipped'].sum() / wrong:.0%}" if wrong else "none"
        said = "" if p >= ERROR else "yes" if interval.mean > 0 else "worse without them"
        needed = f"{compared.seeds_to_tell:,}" if not said and compared.seeds_to_tell else ""
        numbers = f"{interval.mean:+.3f} | {interval.low:+.3f} to {interval.high:+.3f} | {p:.2g}"
        lines.append(f"| {each.title} | {share} | {numbers} | {said} | {needed} |")
    minutes = rows["cpu_seconds"].sum() / 60
    lines += [
        "",
        f"Mean true reward without a random quarter: {drawn['test_reward'].mean():.2f}; the reference "
        f"{rows['reference_reward'][0]:.2f}. {rows['seed'].n_unique()} seeds, {len(rows)} trainings, {minutes:.0f} "
        "minutes of one core. `python benchmarks/evidence/leave_out.py`",
        "",
        "![True reward of every training](evidence/leave_out.svg)",
    ]
    return "\n".join([*lines, ""])


def run(trials: Trials, seeds: int) -> None:
    """Do what is not done, saying how each training went."""
    every = planned(seeds)
    for number, each in enumerate(every, 1):
        row = result(each, trials)
        said = f"{row['flipped']} of {row['all_flipped']} wrong labels, reward {row['test_reward']:.2f}"
        print(f"{number}/{len(every)}: without {each.arm}, seed {each.seed}: {said}", flush=True)


def main() -> None:
    audit_helps.command(__doc__, run, table, write, generated)


def draw(rows: pl.DataFrame, path: Path) -> None:
    """Write the figure: every training a dot, a row per measure."""
    titles = {RANDOM: "random", **{arm: each.title for arm, each in MEASURES.items()}}
    shown = rows.with_columns(arm=pl.col("arm").replace_strict(titles))
    arms = alt.Y("arm:N", title=None, sort=[*titles.values()]).axis(labelLimit=0)
    chart = dots(shown, "test_reward", "true reward without the quarter", arms)
    save(chart.properties(width=380, height=240), path)


def write(rows: pl.DataFrame) -> None:
    """The table, the figure, and the page's generated part."""
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(TABLE)
    draw(rows, FIGURE)
    page.replace(audit_helps.audit_page.PAGE, START, generated(rows))


if __name__ == "__main__":
    main()
