"""A bucket in which things go wrong, as fsspec sees it: a local folder whose operations fail, cut and lag on demand."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from scoreonce.stages.remote.folder import RemoteFolder
from scoreonce.stages.remote.retries import Retries

Fault = Callable[[str, str], str | None]  # operation and path -> what goes wrong: "error", "half", "half then error"


class FaultyFileSystem(LocalFileSystem):
    """`fault` is asked before every operation. `hidden` are endings of paths that listings leave out."""

    cachable = False

    def __init__(self, fault: Fault | None = None, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)
        self.fault = fault or (lambda operation, path: None)
        self.hidden: set[str] = set()
        self.done: Counter[str] = Counter()

    def _goes_wrong(self, operation: str, path: str) -> str | None:
        self.done[operation] += 1
        wrong = self.fault(operation, path)
        if wrong == "error":
            raise ConnectionError(f"503 slow down, secret {operation}")
        return wrong

    def find(self, path: str, **options: Any) -> Any:
        self._goes_wrong("find", path)
        found = super().find(path, **options)
        return {name: info for name, info in found.items() if not any(name.endswith(end) for end in self.hidden)}

    def info(self, path: str, **options: Any) -> Any:
        self._goes_wrong("info", os.fspath(path))  # an entry of a folder too
        return super().info(path, **options)

    def get_file(self, path: str, to: str, **options: Any) -> None:
        self._transfer("get", path, Path(path), Path(to), path)

    def put_file(self, path: str, to: str, **options: Any) -> None:
        Path(to).parent.mkdir(parents=True, exist_ok=True)
        self._transfer("put", to, Path(path), Path(to), to)

    def _transfer(self, operation: str, name: str, source: Path, target: Path, path: str) -> None:
        wrong = self._goes_wrong(operation, name)
        if wrong is None:
            shutil.copyfile(source, target)
            return
        contents = source.read_bytes()
        target.write_bytes(contents[: len(contents) // 2])
        if wrong == "half then error":
            raise TimeoutError(f"read timed out on {path}")

    def rm_file(self, path: str) -> None:
        self._goes_wrong("rm", path)
        super().rm_file(path)


class Clock:
    """Sleeps at once, and remembers for how long it was asked to."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    @property
    def pauses(self) -> list[int]:
        """The pauses without what is added at random, which is less than a second."""
        return [int(seconds) for seconds in self.slept]

    def retries(self) -> Retries:
        return Retries(sleep=self.slept.append)


def faulty_folder(path: Path, fault: Fault | None = None) -> tuple[RemoteFolder, FaultyFileSystem, Clock]:
    """The remote folder at a local path, its file system, and the clock of its retries."""
    filesystem, clock = FaultyFileSystem(fault), Clock()
    return RemoteFolder(f"s3://bucket/{path.name}", filesystem, str(path), clock.retries()), filesystem, clock


def first(times: int, operation: str, wrong: str = "error", ending: str = "") -> Fault:
    """The first `times` operations of a kind on paths with that ending go wrong."""
    left = [times]

    def fault(done: str, path: str) -> str | None:
        if done != operation or not path.endswith(ending) or left[0] == 0:
            return None
        left[0] -= 1
        return wrong

    return fault
