"""One case in a process of its own: its files, its estimate, or its dry run, whose peak is measured.

Each function imports what it needs, as each command does: what a process loads counts in its memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import child


def estimated(order: dict[str, Any]) -> dict[str, Any]:
    """Write the files, prepare the pairs, and estimate."""
    from estimated.cases import Case, write
    from scoreonce.stages.config import load
    from scoreonce.stages.estimate.stage import estimate
    from scoreonce.stages.prepare.stage import prepare

    path = write(Path(order["into"]), Case(**order["case"]))
    run = load(path)
    prepare(run)
    return {"run": path, **estimate(run).document()}


def trained(order: dict[str, Any]) -> dict[str, Any]:
    """The steps of `train --dry-run`: one of the longest rows, then several micro-batches to a step."""
    from scoreonce.stages.config import load
    from scoreonce.stages.train.stage import estimate

    estimate(load(order["run"]))
    return {}


def scored(order: dict[str, Any]) -> dict[str, Any]:
    """The micro-batches of `score --dry-run`."""
    from scoreonce.stages.config import load
    from scoreonce.stages.score.stage import estimate

    estimate(load(order["run"]))
    return {}


if __name__ == "__main__":
    WHAT = {"estimate": estimated, "train": trained, "score": scored}
    child.answer(lambda order: WHAT[order["do"]](order))
