"""Tests a claim of a paper on the world of `world.py`: every training that is not done yet, then tables and a figure.

    python benchmarks/evidence/run.py beta_gap [--seeds 5] [--folder runs/evidence] [--smoke]
    python benchmarks/evidence/run.py rates    # the methods' learning rates, which all claims read
    python benchmarks/evidence/run.py all      # these and every claim

Results of trainings are kept in the folder, so that an interrupted command goes on where it was, and claims share
what they have in common. Writes benchmarks/results/evidence/CLAIM.parquet (one row per training), the claim's figure
docs/evidence/CLAIM.svg, and its section of docs/evidence.md. One thread is fastest: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # what the benchmarks share

import figures
import machine
import page
import rates
from claims import CLAIMS
from trials import Trials
from world import SMOKE, Size, World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", choices=["rates", *CLAIMS, "all"])
    parser.add_argument("--seeds", type=int, default=5, choices=rates.CLAIMED, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--report", action="store_true", help="train nothing: report the seeds that are done")
    parser.add_argument("--smoke", action="store_true", help="a tiny world, for whether it runs; nothing is written")
    options = parser.parse_args()
    names = list(CLAIMS) if options.claim == "all" else [options.claim] if options.claim in CLAIMS else []
    if options.smoke:
        with tempfile.TemporaryDirectory() as folder:
            smoke(names, Trials(World(Path(folder), SMOKE)))
        return
    world = World(options.folder, Size())
    world.require_own()
    trials = Trials(world)
    if options.claim in ("rates", "all") and not options.report:
        search(trials)
    for name in names:
        if not options.report:
            run(name, trials, options.seeds)
        rows = page.table(name, trials, options.seeds)
        if rows.height:
            page.write(name, rows)
            print("\n".join(page.section(name, CLAIMS[name], rows)), flush=True)


def search(trials: Trials) -> None:
    """Find the learning rates."""
    every = list(rates.searched(settings for claim in CLAIMS.values() for settings in claim.middle))
    for number, each in enumerate(every, 1):
        row = trials.result(each.trial)
        said = row["failure"] or f"validation reward {row['validation_reward']:.2f}"
        print(f"rates {number}/{len(every)}: {each.family}, {each.rate:g}, seed {each.trial.seed}: {said}", flush=True)
    rates.TABLE.parent.mkdir(parents=True, exist_ok=True)
    rates.table(every, trials).write_parquet(rates.TABLE)
    rates.chosen.cache_clear()


def run(name: str, trials: Trials, seeds: int) -> None:
    """Do what is not done of a claim, saying how each training went."""
    planned = list(CLAIMS[name].planned(seeds))
    for number, (arm, _, trial) in enumerate(planned, 1):
        row = trials.result(trial)
        said = row["failure"] or f"reward {row['test_reward']:.2f}, KL {row['test_kl']:.1f} nats"
        where = f"{trial.part}, {trial.flips:.0%} flipped, seed {trial.seed}"
        print(f"{name} {number}/{len(planned)}: {arm}, {dict(trial.settings)}, {where}: {said}", flush=True)


def smoke(names: list[str], trials: Trials) -> None:
    """Two seeds of each claim in a tiny world; its section and figure are made, and go nowhere."""
    for name in names:
        run(name, trials, 2)
        rows = page.table(name, trials, 2)
        figures.draw(name, rows, page.reference_reward(rows), trials.world.folder / f"{name}.svg")
        print("\n".join(page.section(name, CLAIMS[name], rows)))
    print(machine.line(machine.described()))


if __name__ == "__main__":
    main()
