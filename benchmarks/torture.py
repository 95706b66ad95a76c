"""Flipped bits and cut files: every kind of file of a run is damaged, and every stage that reads it is run.

    python benchmarks/torture.py [--flips 1368] [--truncations 266] [--only "token ids"] [--seed 0]

A small finished run is made, and beside it an unfinished one. For each damage a copy of both is made, one bit of one
file is flipped, or the file is cut, and its date is kept, as by a failing disk. Then the stages that read this kind of
file run on the copy; what they return is compared with what they return of a sound copy. Models and raw data are hashed
again, as with --rehash. Of each kind, for the first damages, the command that the error names is run too, and has to
lead to the same numbers. Writes benchmarks/results/torture.md, and fails where a number changed without a word, where
an error does not name the file, and where there is a traceback.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import machine
from tortured import world
from tortured.judge import FAULTS, OUTCOMES, Damage, Judge, Verdict
from tortured.kinds import KINDS, Kind

RESULTS = Path(__file__).resolve().parent / "results" / "torture.md"
MENDED = 1  # of each kind, flips and cuts each, for which the named command is run


def damages(kind: Kind, folder: Path, flips: int, cuts: int, seed: int) -> list[Damage]:
    """So many flips and so many cuts of the files of a kind, drawn by seed and kind."""
    draw = random.Random(f"{seed} {kind.name}")
    files = [path.relative_to(folder) for path in kind.files(folder)]
    with world.working_in(folder):
        return [Damage.drawn(files, cut, draw) for cut, count in ((False, flips), (True, cuts)) for _ in range(count)]


def shares(total: int) -> list[int]:
    """`total` divided among the kinds, as evenly as it goes."""
    return [total // len(KINDS) + (number < total % len(KINDS)) for number in range(len(KINDS))]


def run(flips: int, cuts: int, seed: int, only: Sequence[str] = ()) -> dict[str, list[Verdict]]:
    """The verdicts by kind."""
    found: dict[str, list[Verdict]] = {}
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        sound = Path(scratch) / "sound"
        world.make(sound)
        judge = Judge(sound, Path(scratch))
        for kind, of_flips, of_cuts in zip(KINDS, shares(flips), shares(cuts), strict=True):
            if only and kind.name not in only:
                continue
            started, verdicts = time.perf_counter(), []
            for number, damage in enumerate(damages(kind, sound, of_flips, of_cuts, seed)):
                mend = number < MENDED or of_flips <= number < of_flips + MENDED
                verdicts.append(judge.verdict(kind, damage, mend=mend))
            found[kind.name] = verdicts
            worst = ", ".join(f"{count} {outcome}" for outcome, count in counts(verdicts).items() if count)
            print(f"{kind.name:<30}{worst}  ({time.perf_counter() - started:.0f} s)", flush=True)
            for verdict in verdicts:
                if verdict.outcome in FAULTS or verdict.mended is False:
                    print(f"  {verdict.damage}: {verdict.outcome} in {verdict.reader}\n{verdict.detail}", flush=True)
    return found


def counts(verdicts: list[Verdict]) -> Counter[str]:
    """How many verdicts have each outcome."""
    return Counter({outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in OUTCOMES})


def table(found: dict[str, list[Verdict]]) -> list[str]:
    """The Markdown table: a row per kind, and one for all of them."""
    rows = {**found, "all": [verdict for verdicts in found.values() for verdict in verdicts]}
    lines = [
        f"| files | flips | cuts | {' | '.join(OUTCOMES)} | command mends it |",
        f"|---|{'---:|' * (len(OUTCOMES) + 3)}",
    ]
    for name, verdicts in rows.items():
        cuts = sum(verdict.damage.bit is None for verdict in verdicts)
        followed = [verdict.mended for verdict in verdicts if verdict.mended is not None]
        numbers = [len(verdicts) - cuts, cuts, *counts(verdicts).values(), f"{sum(followed)} of {len(followed)}"]
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1368)
    parser.add_argument("--truncations", type=int, default=266)
    parser.add_argument("--only", nargs="+", default=[], help="kinds of file, as in the table")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    found = run(given.flips, given.truncations, given.seed, given.only)
    faults = sum(verdict.outcome in FAULTS or verdict.mended is False for all_ in found.values() for verdict in all_)
    if given.only:
        print("\n".join(table(found)))
    else:
        amounts = f"--flips {given.flips} --truncations {given.truncations} --seed {given.seed}"
        machine.write_page(
            RESULTS, "Flipped bits and cut files", f"python benchmarks/torture.py {amounts}", table(found)
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
