"""Run files with what the command line says about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scoreonce.schemas.errors import InputError

if TYPE_CHECKING:
    from scoreonce.stages.config import Run


def load(path: Path, sets: list[str] | None, *, method: str | None = None, label: str | None = None) -> Run:
    """The run file with overrides. `--method` replaces the file's method with what the file says of it alone."""
    from scoreonce.stages import config

    run = config.load(path, sets)
    if method is not None:
        given = (entry.split("=")[0].strip() for entry in sets or [])
        run = run.of_method(method, {key.removeprefix("train.") for key in given if key.startswith("train.")})
    return run if label is None else run.replace({"train.label": label})


def load_optional(path: Path | None, sets: list[str] | None) -> Run | None:
    """The run file, if one is given. Raises `InputError` for overrides of none."""
    if path is None and sets:
        raise InputError(
            "There is no run file whose keys could be overridden.",
            found=f"--set {sets[0]}",
            where="--set",
            fix="Give the run file too: scoreonce doctor RUN.toml --set ...",
        )
    return None if path is None else load(path, sets)


def load_each(path: Path, sets: list[str] | None, methods: list[str] | None, label: str | None) -> list[Run]:
    """The run file once for each method. Raises `InputError` where several would have one label."""
    each: Sequence[str | None] = methods or [None]
    runs = [load(path, sets, method=method, label=label) for method in each]
    labels = [run.train.label or run.train.method for run in runs]
    if len(set(labels)) < len(labels):
        raise InputError(
            "Several methods cannot share one label.",
            found=f"{', '.join(methods or [])} as {', '.join(labels)}",
            where="--method",
            fix="Leave out --label: each run is then named after its method.",
        )
    return runs
