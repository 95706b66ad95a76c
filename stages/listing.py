"""What the command line prints without running a stage: the methods, and where a run keeps its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scoreonce.pipeline.errors import InputError
from scoreonce.schemas.columns import did_you_mean
from scoreonce.stages.config import Run
from scoreonce.stages.layout import SPLITS, Layout

Located = Callable[[Run, Layout], list[Path]]


def _data(run: Run, layout: Layout) -> list[Path]:
    sources = [Path(source) for source in (run.data.source, run.data.test_source) if source is not None]
    return [found for source in sources for found in _with_contents(source)]


def _model(run: Run, layout: Layout) -> list[Path]:
    return _with_contents(Path(run.reference.model))


def _with_contents(path: Path) -> list[Path]:
    """A local file, or a local folder and its files; nothing for a Hub name."""
    if path.is_dir():
        return [path, *sorted(found for found in path.rglob("*") if found.is_file())]
    return [path] if path.exists() else []


LOCATED: dict[str, Located] = {
    "data": _data,
    "model": _model,
    "pairs": lambda run, layout: [layout.pairs(split) for split in SPLITS],
    "tokens": lambda run, layout: [layout.tokens(split) for split in SPLITS],
    "quarantine": lambda run, layout: [layout.quarantine],
    "store": lambda run, layout: [layout.store],
    "reference": lambda run, layout: [layout.reference(split) for split in SPLITS],
    "train": lambda run, layout: [layout.training],
    "policy": lambda run, layout: [layout.policy],
    "evaluate": lambda run, layout: [layout.evaluation],
    "report": lambda run, layout: [layout.report],
    "out": lambda run, layout: [layout.out],
}


def paths(run: Run, what: str) -> list[Path]:
    """The paths of one kind: `data` and `model` are the local files that a run reads, the others what it writes.

    Raises `InputError` for an unknown kind.
    """
    if what not in LOCATED:
        raise InputError("There is no such thing to locate.", found=f"{what}.{did_you_mean(what, list(LOCATED))}",
                         where="scoreonce path RUN.toml WHAT", fix=f"Give one of: {', '.join(LOCATED)}.")
    return LOCATED[what](run, Layout.of(run))
