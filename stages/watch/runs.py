"""Which training runs to watch, and how each stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scoreonce.pipeline.training.sampling import planned_steps
from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.schemas.manifests import Lineage
from scoreonce.schemas.names import require_name
from scoreonce.stages.common import manifests
from scoreonce.stages.common.locking import is_at_work
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.watch.tail import Tail

METRICS = "metrics.jsonl"
State = Literal["waiting", "training", "finished", "stopped"]
ENDED: tuple[State, ...] = ("finished", "stopped")


@dataclass(frozen=True)
class RunState:
    """A training run at a moment: the metrics of each step so far, and how many steps there will be, where known."""

    label: str
    state: State
    rows: Sequence[dict[str, Any]]
    steps: int | None
    unreadable: int = 0  # lines of the log


class WatchedRun:
    """One run under its label, whose log is read on."""

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        self._tail = Tail(paths.training / METRICS)

    def look(self) -> RunState:
        """How the run stands now."""
        # Before the log is read: a run that ends in between has written its last line.
        working = is_at_work(self.paths.lock(self.paths.training))
        rows = self._tail.update()
        steps = _planned(self.paths)
        done = bool(rows) and (steps is None or len(rows) >= steps) and self.paths.policy.is_dir()
        state: State = "training" if working else "finished" if done else "stopped" if rows else "waiting"
        return RunState(self.paths.label, state, rows, steps, self._tail.unreadable)


def chosen(paths: RunPaths, labels: Sequence[str]) -> list[RunPaths]:
    """The runs with these labels. Without labels those that are training; else the one that wrote last; else the run
    file's own, which may begin yet.

    Raises `InputError` for a label that cannot be one.
    """
    if labels:
        return [replace(paths, label=require_name(label, "--label")) for label in dict.fromkeys(labels)]
    there = _logged(paths)
    working = [run for run in there if is_at_work(run.lock(run.training))]
    if working:
        return working
    return [max(there, key=lambda run: (run.training / METRICS).stat().st_mtime_ns)] if there else [paths]


def require_logged(paths: RunPaths, runs: Sequence[RunState]) -> None:
    """Raise `InputError` where none of the runs has logged a step and none is training."""
    if any(run.rows or run.state == "training" for run in runs):
        return
    known = [run.label for run in _logged(paths)]
    missing = ", ".join(run.label for run in runs)
    raise InputError(
        "There is no such training run.",
        found=f"{missing}.{did_you_mean(runs[0].label, known)}",
        where=str(paths.out / "train"),
        fix=f"Give one of: {', '.join(known)}." if known else "Run `scoreonce train` first, or beside this command.",
    )


def _logged(paths: RunPaths) -> list[RunPaths]:
    found: list[Path] = sorted((paths.out / "train").glob(f"[!.]*/{METRICS}"))
    return [replace(paths, label=path.parent.name) for path in found]


def _planned(paths: RunPaths) -> int | None:
    """Steps of the whole run, as its lineage says."""
    lineage = manifests.readable(Lineage, paths.lineage)
    if lineage is None:
        return None
    try:
        return planned_steps(
            lineage.data.pairs,
            lineage.train["batch_pairs"],
            epochs=lineage.train["epochs"],
            max_steps=lineage.train["max_steps"],
        )
    except (KeyError, TypeError):  # of a version that recorded less
        return None
