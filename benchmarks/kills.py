"""Killed commands: every stage is killed again and again, given once more, and compared with a run left alone.

    python benchmarks/kills.py [--kills 350] [--only train] [--seed 0]

Half of the kills are at file operations (a file opened for writing, renamed, removed, a folder made), evenly spread
over those of the stage; half at moments drawn from the time that it takes. After each, the same command is given again.
Wanted of what is there then: the same numbers, weights bit for bit, the same files, and no temporary one. Each kill
starts from a copy of the run as the stage before left it. Processes are forks of this one, on one thread, so that each
starts in no time and sums in the same order. Writes benchmarks/results/kills.md, and fails where a kill left a trace.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    import one_thread  # noqa: F401

import machine
import transformers.models.llama.modeling_llama  # noqa: F401  # once, for all forks
from tortured import readers, world

RESULTS = Path(__file__).resolve().parent / "results" / "kills.md"

# The stages in order, each as the function that runs it and returns a digest of its results.
STAGES: dict[str, readers.Reader] = {
    "prepare": readers.prepared,
    "score": readers.scored,
    "train": readers.finished,
    "train, from stored hidden states": readers.finished_on_hidden,
    "train, LoRA": readers.finished_lora,
    "merge": readers.merged,
    "evaluate": readers.evaluated,
    "audit": readers.audited,
    "sample": readers.sampled,
    "judge": readers.judged,
    "pairs": readers.graded,
    "export-reference": readers.exported,
    "compare": readers.compared,
    "report": readers.written_report,
}
SHARD = re.compile(r"\d{8}T\d{12}-[0-9a-f]{10}")  # `<time>-<random>`
WRITES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"})


@dataclass
class Trial:
    """A kill and what came of it; no problem is the empty string."""

    moment: str
    killed: bool  # else the stage had ended before
    problem: str = ""


@dataclass
class Stage:
    """A stage, and what it does when it is left alone."""

    name: str
    run: readers.Reader
    before: Path  # the run as the stage before left it
    digest: str
    files: frozenset[str]
    operations: int
    seconds: float
    trials: list[Trial] = field(default_factory=list)


class Operations:
    """Counts the file operations of this process under its working directory, and ends it instead of one of them."""

    def __init__(self, last: int | None) -> None:
        self.seen, self.last, self.home = 0, last, Path.cwd()
        sys.addaudithook(self)

    def __call__(self, event: str, details: tuple[object, ...]) -> None:
        if event != "open" and event not in WRITES:
            return
        path = details[0]
        if event == "open":
            flags = details[2]
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR):
                return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if self.home in (self.home / os.fsdecode(path)).parents:
            self.seen += 1
            if self.seen == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


def fork(folder: Path, run: readers.Reader, last: int | None = None, *, said: Path | None = None) -> tuple[int, int]:
    """Run a stage in a child process, up to its `last` file operation: its process id, and a pipe of its results.

    `said`: the file of what it prints; without one, beside the folder.
    """
    said = said or folder.with_suffix(".said")
    results, gives = os.pipe()
    sys.stdout.flush()
    with warnings.catch_warnings():  # threads of the parent hold no lock that a stage takes
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process:
        os.close(gives)
        return process, results
    code = 1
    try:
        printed = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        with world.working_in(folder):
            operations = Operations(last)
            os.write(gives, f"{run()} {operations.seen}".encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def results_of(process: int, results: int) -> tuple[str, int] | None:
    """Wait for a stage: its digest and its number of file operations; None if it was killed."""
    with os.fdopen(results) as pipe:
        found = pipe.read().split()
    status = os.waitpid(process, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    return (found[0], int(found[1])) if status == 0 and found else ("it failed", 0)


def files_of(folder: Path) -> frozenset[str]:
    """Every file and folder of a run, without what a cache of digests adds.

    The shards of a store are named by the time, and an interrupted run makes others: so of these, which files there are
    of one shard, of each layer. An index is a cache too, made when it is wanted: only more than one table are told.
    """
    found, shards, tables = set(), defaultdict(list), Counter[Path]()
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if inside.parts[0] == "cache":
            continue
        if path.parent.name == "index":
            if path.suffix == ".bin":  # <layer>-<random>.bin
                tables[inside.with_name(path.stem.rpartition("-")[0])] += 1
        elif SHARD.fullmatch(path.stem):
            shards[inside.with_suffix("")].append(path.suffix)
        else:
            found.add(str(inside))
    found |= {f"{count} tables of {table}" for table, count in tables.items() if count > 1}
    return frozenset(found | {f"{shard.parent}/*{' and '.join(sorted(parts))}" for shard, parts in shards.items()})


def copied(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def left_alone(scratch: Path) -> list[Stage]:
    """Run all stages one after the other, and keep what is there before each."""
    folder = scratch / "sound"
    folder.mkdir()
    if results_of(*fork(folder, world.write_inputs)) is None:
        raise RuntimeError("the inputs were not written")
    stages = []
    for number, (name, run) in enumerate(STAGES.items()):
        before = copied(folder, scratch / f"before-{number}")
        started = time.perf_counter()
        found = results_of(*fork(folder, run))
        seconds = time.perf_counter() - started
        if found is None or found[1] == 0:
            raise RuntimeError(f"{name} does not run: {folder.with_suffix('.said').read_text()}")
        stages.append(Stage(name, run, before, found[0], files_of(folder), found[1], seconds))
    return stages


def killed(stage: Stage, folder: Path, moment: int | float) -> Trial:
    """Kill a stage at a file operation (a whole number, from 1) or after so many seconds, and give it again."""
    copied(stage.before, folder)
    at_operation = isinstance(moment, int)
    process, results = fork(folder, stage.run, moment if isinstance(moment, int) else None)
    if not at_operation:
        time.sleep(moment)
        os.kill(process, signal.SIGKILL)  # not waited for yet, so the process id is still its own
    first = results_of(process, results)
    again = results_of(*fork(folder, stage.run))
    trial = Trial(f"operation {moment}" if at_operation else f"{moment:.3f} s", first is None)
    if first is not None and first[0] != stage.digest:
        trial.problem = "failed before it was killed"
    elif again is None or again[0] != stage.digest:
        trial.problem = "other results" if again and again[1] else folder.with_suffix(".said").read_text()[-2_000:]
    elif (found := files_of(folder)) != stage.files:
        trial.problem = f"more files: {sorted(found - stage.files)}; fewer: {sorted(stage.files - found)}"
    return trial


def moments(stage: Stage, count: int, seed: int) -> list[int | float]:
    """Half are file operations, evenly spread, half seconds."""
    draw, at_operations = random.Random(f"{seed} {stage.name}"), (count + 1) // 2
    spread = [1 + number * stage.operations // at_operations for number in range(at_operations)]
    return [*spread, *(draw.uniform(0, stage.seconds) for _ in range(count - at_operations))]


def run(kills: int, seed: int, only: Sequence[str] = ()) -> list[Stage]:
    """Kill every stage, so often in all."""
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        stages = left_alone(Path(scratch))
        for number, stage in enumerate(stages):
            if only and stage.name not in only:
                continue
            started = time.perf_counter()
            share = kills // len(stages) + (number < kills % len(stages))
            for moment in moments(stage, share, seed):
                stage.trials.append(trial := killed(stage, Path(scratch) / "copy", moment))
                if trial.problem:
                    print(f"  {stage.name}, {trial.moment}: {trial.problem}", flush=True)
            print(f"{_row(stage)}  {time.perf_counter() - started:.0f} s", flush=True)
    return stages


def table(stages: Sequence[Stage]) -> list[str]:
    """The Markdown table: a row per stage, and one for all."""
    head = "| stage | file operations | kills | ended before | same results and files | a trace left |"
    return [head, "|---|---:|---:|---:|---:|---:|", *map(_row, stages), _sum(stages)]


def _row(stage: Stage) -> str:
    return _line(stage.name, f"{stage.operations:,}", stage.trials)


def _sum(stages: Sequence[Stage]) -> str:
    return _line("all", "", [trial for stage in stages for trial in stage.trials])


def _line(name: str, operations: str, trials: Sequence[Trial]) -> str:
    kills, faults = sum(trial.killed for trial in trials), sum(bool(trial.problem) for trial in trials)
    return f"| {name} | {operations} | {kills} | {len(trials) - kills} | {len(trials) - faults} | {faults} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=350)
    parser.add_argument("--only", nargs="+", default=[], help="stages, as in the table")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    stages = run(given.kills, given.seed, given.only)
    if given.only:
        print("\n".join(table(stages)))
    else:
        command = f"python benchmarks/kills.py --kills {given.kills} --seed {given.seed}"
        machine.write_page(RESULTS, "Killed commands", command, table(stages))
    return 1 if any(trial.problem for stage in stages for trial in stage.trials) else 0


if __name__ == "__main__":
    sys.exit(main())
