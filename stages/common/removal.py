"""The one place that removes files and folders, and nothing outside the folder that a run may write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scoreonce.schemas.errors import InputError

_watching: list[Callable[[Path], None]] = []


@contextmanager
def watched(tell: Callable[[Path], None]) -> Iterator[None]:
    """Tell `tell` of every file and folder that this process is about to remove in this block, before it is gone."""
    _watching.append(tell)
    try:
        yield
    finally:
        _watching.remove(tell)


def remove(path: Path, *, inside: Path) -> None:
    """Remove a file, a folder with all that is in it, or a symbolic link itself; do nothing where there is none.

    `inside` is the folder of the run or of the store. Raises `InputError` where `path` is not in it, by `..` or through
    a symbolic link on the way.
    """
    target = path.parent.resolve() / path.name  # a link is not followed
    _require(path, target, inside)
    if os.path.lexists(target):
        for tell in _watching:
            tell(target)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def require_inside(path: Path, inside: Path) -> None:
    """Raise `InputError` where `path` leads out of the folder `inside`: what is written there replaces other files."""
    _require(path, path.resolve(), inside)


def _require(path: Path, target: Path, inside: Path) -> None:
    root = inside.resolve()
    if path.name == ".." or target == root or not target.is_relative_to(root):
        raise InputError(
            "Nothing outside the folder of a run is written or removed.",
            found=f"{path} is {target}, which is not in {root}",
            where=str(path),
            fix="Put a folder in place of the symbolic link, or set `out` (for a store, `score.store`) to the folder "
            "where the files are.",
        )
