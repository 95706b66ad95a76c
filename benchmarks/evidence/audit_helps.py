"""Does cleaning by a finding of the audit help? Trains with planted flaws, without what the audit found, without as
many pairs drawn at random, and without the flaw.

    python benchmarks/evidence/audit_helps.py [--seeds 5] [--folder runs/evidence] [--report] [--smoke]

Results of trainings are kept in the folder, so that an interrupted command goes on where it was. Writes
benchmarks/results/evidence/audit_helps.parquet (one row per training), docs/evidence/audit_helps.svg, and the generated
part of docs/evidence-audit.md. One thread is fastest: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import audit_page
import polars as pl
import torch
from plants import PLANTS, Plant, clean
from rates import CLAIMED, rate_of
from trials import Trials, judged, reference_model, tokens_of, trained
from world import SMOKE, Size, World

from scoreonce import Run, audit
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.train.pair_filter import places

ARMS = ("all", "audit", "random")
CLEAN = "clean"
DPO = {"train.method": "dpo", "train.beta": 0.1, "train.learning_rate": rate_of({"method": "dpo"})}
UNPLANTED = Plant("none", "", clean, {})


class Cleaning(NamedTuple):
    """A training: what was planted, and what was done about it. The seed also draws the plant and the random pairs."""

    plant: str
    arm: str
    seed: int

    @property
    def key(self) -> str:
        """What results are kept under."""
        return json.dumps(["audit_helps", *self])


def planned(seeds: int) -> list[Cleaning]:
    """Every training, the first seed's first."""
    return [
        Cleaning(plant, arm, seed)
        for seed in range(seeds)
        for plant, arms in [(CLEAN, (CLEAN,)), *((plant, ARMS) for plant in PLANTS)]
        for arm in arms
    ]


def result(cleaning: Cleaning, trials: Trials) -> dict[str, Any]:
    """What a training gave; done now if it is not."""
    return trials.kept(cleaning.key, lambda: _run(cleaning, trials.world))


def _run(cleaning: Cleaning, world: World) -> dict[str, Any]:
    run, found = audited(world, cleaning.plant, cleaning.seed)
    settings = cleaned(cleaning, found)
    policy, metrics = trained(run.replace({**DPO, **settings, "train.seed": cleaning.seed}))
    planted = int(found["planted"].sum())
    counts = {"flagged": int(found["flagged"].sum()), "planted": planted, "pairs": len(found)}
    return {
        **counts,
        "planted_flagged": int((found["flagged"] & found["planted"]).sum()),
        **metrics,
        **judged(policy, world),
        "accuracy": accuracy(policy, world),
    }


@lru_cache(maxsize=1)  # the arms of a plant come after each other
def audited(world: World, name: str, seed: int) -> tuple[Run, pl.DataFrame]:
    """The run of a data set with a plant, scored and audited, and of each pair: `row`, `planted`, `flagged`."""
    plant = PLANTS.get(name, UNPLANTED)
    rows = plant.rows(world.pairs(seed), random.Random(seed))
    run = world.scored(f"audit-{name}-seed{seed}", rows, plant.data)
    return run, flagged(run, rows, plant)


def flagged(run: Run, rows: Sequence[dict[str, Any]], plant: Plant) -> pl.DataFrame:
    """Audit a scored run of `rows`; of each pair `row`, whether it is `planted`, and `flagged` by the finding."""
    audit(run)
    paths = RunPaths.of(run)
    pairs = pl.read_parquet(paths.pairs("train")).select("row")
    settings = run.replace({**DPO, **plant.cleaning}).train
    left = places(paths, settings.where, settings.drop)
    kept = set(range(len(pairs)) if left is None else left.tolist())
    return pairs.with_columns(
        planted=pl.Series([rows[row]["planted"] for row in pairs["row"]], dtype=pl.Boolean),
        flagged=pl.Series([place not in kept for place in range(len(pairs))], dtype=pl.Boolean),
    )


def cleaned(cleaning: Cleaning, found: pl.DataFrame) -> dict[str, Any]:
    """Settings of [train] for an arm: nothing, the finding, or as many pairs drawn by the seed."""
    if cleaning.arm == "audit":
        return PLANTS[cleaning.plant].cleaning
    count = int(found["flagged"].sum())
    if cleaning.arm != "random" or not count:
        return {}
    return without(random.Random(cleaning.seed).sample(found["row"].to_list(), count))


def without(rows: Sequence[int]) -> dict[str, Any]:
    """Settings of [train] that leave out these rows of the data."""
    return {"train.where": f"row NOT IN ({', '.join(map(str, sorted(rows)))})"} if rows else {}


def accuracy(policy: Any, world: World) -> float:
    """Share of held-out pairs, of prompts that no training pair has, whose better side gains more log-probability over
    the reference than the other; by true reward, half for a tie.
    """
    margin = margins(policy, world.held_out, world)
    return float(((margin > 0).double() + (margin == 0).double() / 2).mean())


def margins(policy: Any, rows: list[dict[str, Any]], world: World) -> torch.Tensor:
    """Of each pair, how much more log-probability its chosen side gains over the reference: (pairs,), nats."""
    prompts = [row["prompt"] for row in rows]
    gains = []
    for side in ("chosen", "rejected"):
        ids, mine = tokens_of(prompts, [row[side] for row in rows], world)
        gains.append(_logps(policy, ids, mine) - _logps(reference_model(world.reference), ids, mine))
    return gains[0] - gains[1]


@torch.inference_mode()
def _logps(model: Any, ids: torch.Tensor, mine: torch.Tensor) -> torch.Tensor:
    """Log-probability (texts,) of each text after its prompt, in nats."""
    every = model(ids).logits[:, :-1].log_softmax(-1)
    return (every.gather(-1, ids[:, 1:, None]).squeeze(-1) * mine).sum(-1).double()


def table(trials: Trials, seeds: int) -> pl.DataFrame:
    """One row per training, of the seeds whose every training is done."""
    return finished(planned(seeds), trials)


def finished(every: Sequence[Any], trials: Trials) -> pl.DataFrame:
    """One row per training of `every`, named tuples with a seed and a key, of the seeds that have all of theirs."""
    unfinished = {each.seed for each in every if each.key not in trials.done}
    reference = trials.reference()["test_reward"]
    return pl.DataFrame(
        [
            {**each._asdict(), "reference_reward": reference, **trials.done[each.key]}
            for each in every
            if each.seed not in unfinished
        ],
        infer_schema_length=None,
    )


def run(trials: Trials, seeds: int) -> None:
    """Do what is not done, saying how each training went."""
    every = planned(seeds)
    for number, each in enumerate(every, 1):
        row = result(each, trials)
        said = f"reward {row['test_reward']:.2f}, accuracy {row['accuracy']:.1%}"
        print(f"{number}/{len(every)}: {each.plant}, {each.arm}, seed {each.seed}: {said}", flush=True)


def main() -> None:
    command(__doc__, run, table, audit_page.write, audit_page.generated)


def command(
    says: str | None,
    run: Callable[[Trials, int], None],
    table: Callable[[Trials, int], pl.DataFrame],
    write: Callable[[pl.DataFrame], None],
    generated: Callable[[pl.DataFrame], str],
) -> None:
    """A command that does trainings and writes what was found; with --smoke, in a tiny world, and writes nothing."""
    parser = argparse.ArgumentParser(description=says, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, choices=CLAIMED, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--report", action="store_true", help="train nothing: report the seeds that are done")
    parser.add_argument("--smoke", action="store_true", help="a tiny world, for whether it runs; nothing is written")
    options = parser.parse_args()
    if options.smoke:
        with tempfile.TemporaryDirectory() as folder:
            trials = Trials(World(Path(folder), SMOKE))
            run(trials, 1)
            print(generated(table(trials, 1)))
        return
    world = World(options.folder, Size())
    world.require_own()
    trials = Trials(world)
    if not options.report:
        run(trials, options.seeds)
    rows = table(trials, options.seeds)
    if rows.height:
        write(rows)
        print(generated(rows))


if __name__ == "__main__":
    main()
