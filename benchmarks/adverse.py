"""Adverse surroundings: two writers at once, no permission to write or read, and a clock that goes backwards.

    python benchmarks/adverse.py [--only train]

Every stage, each time on a copy of the run as the stage before left it:
- two at once: the same command twice, at the same moment and with the second half-way. Wanted: both give the results.
- read-only: a file system that is mounted read-only. Another user: files that belong to somebody else and may only be
  read, or not even that. Wanted: an error that says so, no traceback, and results afterwards, where it is allowed.
- clock backwards: files are dated a day ahead, and the clock is an hour earlier at each look. Wanted: the results.
The results are the numbers and files of a run in peace, weights bit for bit, no temporary file left. Needs Linux and
root. Writes benchmarks/results/adverse.md, and fails where it is otherwise.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

if __name__ == "__main__":
    import one_thread  # noqa: F401

import full_disk
import kills
import machine

from scoreonce.stages.common import digests, locking
from scoreonce.stages.store import layer, sidecar, store

RESULTS = Path(__file__).resolve().parent / "results" / "adverse.md"
REFUSALS = ("Permission denied", "Read-only file system", "Operation not permitted")
SOMEBODY = 12345  # a user id that nobody has
DAY = 24 * 60 * 60
CLOCKS = (locking, layer, sidecar, store)  # modules that ask for the date


# What befalls a stage: each returns the problems of its trials, no problem being the empty string.


def two_at_once(stage: kills.Stage, folder: Path) -> list[str]:
    """The second starts at once, or half-way through the first."""
    problems = []
    for share in (0.0, 0.5):
        kills.copied(stage.before, folder)
        first = kills.fork(folder, stage.run)
        time.sleep(share * stage.seconds)
        second = kills.fork(folder, stage.run, said=folder.with_suffix(".second"))
        digests = [found and found[0] for found in (kills.results_of(*first), kills.results_of(*second))]
        if digests != [stage.digest] * 2:
            problems.append(f"{digests}: {_said(folder)} {folder.with_suffix('.second').read_text()[-2_000:]}")
        else:
            problems.append(_other_files(stage, folder))
    return problems


def read_only(stage: kills.Stage, folder: Path) -> list[str]:
    """On a file system that may not be written."""
    shutil.rmtree(folder, ignore_errors=True)
    with full_disk.disk(folder, 1 << 30):
        run = kills.copied(stage.before, folder / "run")
        said = folder.with_suffix(".said")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        first = kills.results_of(*kills.fork(run, full_disk.telling(stage.run, REFUSALS), said=said))
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        if first is None or first[0] != full_disk.TOLD:
            return [f"it was not said that nothing can be written: {said.read_text()[-2_000:]}"]
        return [afterwards(stage, run)]


def another_user(mode: int) -> Callable[[kills.Stage, Path], list[str]]:
    """Everything belongs to somebody else, with these permissions."""

    def befall(stage: kills.Stage, folder: Path) -> list[str]:
        kills.copied(stage.before, folder)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, SOMEBODY, SOMEBODY)
            path.chmod(mode if path.is_dir() else mode & 0o666)

        def without_privileges() -> str:
            give_up_privileges()
            return full_disk.telling(stage.run, REFUSALS)()

        first = kills.results_of(*kills.fork(folder, without_privileges))
        if first is None or first[0] != full_disk.TOLD:
            return [f"it was not said that permission is missing: {_said(folder)}"]
        for path in (folder, *folder.rglob("*")):
            os.chown(path, os.geteuid(), os.getegid())
        return [afterwards(stage, folder)]

    return befall


def clock_backwards(stage: kills.Stage, folder: Path) -> list[str]:
    """What is there is dated a day ahead, and each look at the clock an hour earlier than the one before."""
    kills.copied(stage.before, folder)
    ahead = time.time() + DAY
    for path in folder.rglob("*"):
        if path.name != "pairs.jsonl":  # the manifest of the pairs has its date
            os.utime(path, (ahead, ahead))

    def run() -> str:
        turn_back_clock()
        return stage.run()

    found = kills.results_of(*kills.fork(folder, run))
    if found is None or found[0] != stage.digest:
        return [f"other results: {_said(folder)}"]
    return [_other_files(stage, folder)]


CASES: dict[str, Callable[[kills.Stage, Path], list[str]]] = {
    "two at once": two_at_once,
    "read-only": read_only,
    "another user's, readable": another_user(0o755),
    "another user's, closed": another_user(0o700),
    "clock backwards": clock_backwards,
}


def afterwards(stage: kills.Stage, folder: Path) -> str:
    """The problem of the same command where nothing is in its way."""
    again = kills.results_of(*kills.fork(folder, stage.run))
    if again is None or again[0] != stage.digest:
        return f"afterwards: {_said(folder)}"
    return _other_files(stage, folder)


def give_up_privileges() -> None:
    """From here on this process is an ordinary user to the kernel, although its user id stays 0."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the call, this process
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def turn_back_clock() -> None:
    """Each look at the clock shows an hour earlier than the one before."""
    looks, real = itertools.count(1), time.time

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Earlier:
            found = datetime.now(tz) - timedelta(hours=next(looks))
            return cls.fromtimestamp(found.timestamp(), tz)

    for module in CLOCKS:
        module.datetime = Earlier  # type: ignore[attr-defined]
    digests.time.time = lambda: real() - 3600 * next(looks)  # type: ignore[attr-defined]


def _other_files(stage: kills.Stage, folder: Path) -> str:
    found = kills.files_of(folder)
    if found == stage.files:
        return ""
    return f"more files: {sorted(found - stage.files)}; fewer: {sorted(stage.files - found)}"


def _said(folder: Path) -> str:
    return folder.with_suffix(".said").read_text(errors="replace")[-2_000:]


def run(only: Sequence[str] = ()) -> dict[str, dict[str, list[str]]]:
    """The problems by stage and case."""
    found: dict[str, dict[str, list[str]]] = {}
    with tempfile.TemporaryDirectory(prefix="adverse-") as scratch:
        for stage in kills.left_alone(Path(scratch)):
            if only and stage.name not in only:
                continue
            started, found[stage.name] = time.perf_counter(), {}
            for name, befall in CASES.items():
                found[stage.name][name] = problems = befall(stage, Path(scratch) / "copy")
                for problem in filter(None, problems):
                    print(f"  {stage.name}, {name}: {problem}", flush=True)
            shutil.rmtree(Path(scratch) / "copy", ignore_errors=True)
            print(f"{_row(stage.name, found[stage.name])}  {time.perf_counter() - started:.0f} s", flush=True)
    return found


def table(found: dict[str, dict[str, list[str]]]) -> list[str]:
    """The Markdown table: for each stage and case, how many trials were as wanted, of how many."""
    head = ["| stage | " + " | ".join(CASES) + " |", "|---|" + "---:|" * len(CASES)]
    return [*head, *(_row(name, cases) for name, cases in found.items())]


def _row(name: str, cases: dict[str, list[str]]) -> str:
    cells = (f"{sum(not problem for problem in problems)} of {len(problems)}" for problems in cases.values())
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="stages, as in the table")
    given = parser.parse_args()
    if sys.platform != "linux" or os.geteuid() != 0:
        print("skipped: needs root on Linux, to mount file systems and to give files away")
        return 0
    warnings.simplefilter("ignore")
    found = run(given.only)
    if not given.only:
        machine.write_page(RESULTS, "Adverse surroundings", "python benchmarks/adverse.py", table(found))
    return 1 if any(problem for cases in found.values() for problems in cases.values() for problem in problems) else 0


if __name__ == "__main__":
    sys.exit(main())
