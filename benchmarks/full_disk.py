"""Full disks: every stage runs where there is too little room for it, and again with room enough.

    python benchmarks/full_disk.py [--trials 140] [--only train]

Needs Linux and root: each trial mounts a file system in memory (tmpfs). Its size is what the run takes before the stage
and a part of what the stage adds, evenly spread from nothing to all of it. Wanted: an error that says that the disk is
full, no traceback and no crash; and after the same command with room, the same results and files as of a run that never
lacked any. Writes benchmarks/results/full_disk.md, and fails where it is otherwise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    import one_thread  # noqa: F401

import kills
import machine
from tortured import readers

from scoreonce.schemas.errors import InputError
from scoreonce.stages.cli.failures import environment_error

RESULTS = Path(__file__).resolve().parent / "results" / "full_disk.md"
PAGE = 4096
TOLD = "told"


@dataclass
class Trial:
    """A stage on a disk with so much room, and what came of it; no problem is the empty string."""

    room: int  # bytes
    told: bool  # that the disk is full; else there was room enough
    problem: str = ""


def room_of(folder: Path) -> int:
    """Bytes that the file system counts for a folder: the whole pages of its files."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file())


@contextmanager
def disk(folder: Path, size: int) -> Iterator[None]:
    """A file system in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def telling(run: readers.Reader, words: Sequence[str] = ("No space left",)) -> readers.Reader:
    """A stage that returns `TOLD` where the command line would print an error with some of these words."""

    def told() -> str:
        try:
            return run()
        except Exception as error:
            found = error if isinstance(error, InputError) else environment_error(error)
            if found is not None and any(each in str(found) for each in words):
                return TOLD
            raise

    return told


def tried(stage: kills.Stage, folder: Path, room: int) -> Trial:
    """A stage where there are `room` bytes for what it adds, and again where there is enough."""
    with disk(folder, 1 << 30):
        run = kills.copied(stage.before, folder / "run")
        size = max(PAGE, room_of(run) + room)
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
        first = kills.results_of(*kills.fork(run, telling(stage.run)))
        said = run.with_suffix(".said").read_text(errors="replace")[-2_000:]
        subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
        again = kills.results_of(*kills.fork(run, stage.run))
        trial = Trial(room, first is not None and first[0] == TOLD)
        if not trial.told and (first is None or first[0] != stage.digest):
            trial.problem = f"no word of the disk: {said}"
        elif again is None or again[0] != stage.digest:
            trial.problem = f"afterwards: {run.with_suffix('.said').read_text(errors='replace')[-2_000:]}"
        elif (found := kills.files_of(run)) != stage.files:
            trial.problem = f"more files: {sorted(found - stage.files)}; fewer: {sorted(stage.files - found)}"
    return trial


def run(trials: int, only: Sequence[str] = ()) -> dict[str, list[Trial]]:
    """Every stage on disks of different sizes, so many trials in all."""
    found: dict[str, list[Trial]] = {}
    with tempfile.TemporaryDirectory(prefix="full-disk-") as scratch:
        stages = kills.left_alone(Path(scratch))
        afters = [stage.before for stage in stages[1:]] + [Path(scratch) / "sound"]
        for stage, after in zip(stages, afters, strict=True):
            if only and stage.name not in only:
                continue
            started, count = time.perf_counter(), max(1, trials // len(stages))
            adds = room_of(after) - room_of(stage.before)
            found[stage.name] = []
            for number in range(count):
                found[stage.name].append(trial := tried(stage, Path(scratch) / "disk", number * adds // count))
                if trial.problem:
                    print(f"  {stage.name}, {trial.room:,} bytes: {trial.problem}", flush=True)
            print(f"{_line(stage.name, found[stage.name])}  {time.perf_counter() - started:.0f} s", flush=True)
    return found


def table(found: dict[str, list[Trial]]) -> list[str]:
    """The Markdown table: a row per stage, and one for all."""
    whole = [trial for trials in found.values() for trial in trials]
    head = ["| stage | disks | told that it is full | room enough | otherwise |", "|---|---:|---:|---:|---:|"]
    return [*head, *(_line(name, trials) for name, trials in found.items()), _line("all", whole)]


def _line(name: str, trials: Sequence[Trial]) -> str:
    told, faults = sum(trial.told for trial in trials), sum(bool(trial.problem) for trial in trials)
    return f"| {name} | {len(trials)} | {told} | {len(trials) - told} | {faults} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=140)
    parser.add_argument("--only", nargs="+", default=[], help="stages, as in the table")
    given = parser.parse_args()
    if sys.platform != "linux" or os.geteuid() != 0:
        print("skipped: needs root on Linux, to mount file systems")
        return 0
    warnings.simplefilter("ignore")
    found = run(given.trials, given.only)
    if not given.only:
        command = f"python benchmarks/full_disk.py --trials {given.trials}"
        machine.write_page(RESULTS, "Full disks", command, table(found))
    return 1 if any(trial.problem for trials in found.values() for trial in trials) else 0


if __name__ == "__main__":
    sys.exit(main())
