"""What a local copy knows of a unit: the index that it was made from, and which of its files are still as they were."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from scoreonce.stages.common.files import read_json, write_json
from scoreonce.stages.outputs.index import Index

Stamp = list[int]  # size and modification time, by which a file is known to be the same


@dataclass
class Record:
    """`index`: the state at the address that the copy continues, None where nothing of it was published.

    `stamps`: files that are as the index lists them. `removed`: files of the index that a command removed here, which
    the address is still to be told.
    """

    index: Index | None = None
    stamps: dict[str, Stamp] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path, unit: str) -> Record:
        """The record in a file. Where it is absent or damaged, nothing is known: files are compared by digest then."""
        try:
            tree = read_json(path)
            index = None if tree["index"] is None else Index.of(tree["index"], unit)
            return cls(index, dict(tree["stamps"]), set(tree["removed"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def write(self, path: Path) -> None:
        """Write it down, atomically."""
        tree = {
            "index": self.index and self.index.tree(),
            "stamps": self.stamps,
            "removed": sorted(self.removed),
        }
        write_json(path, tree)

    def is_current(self, name: str, path: Path) -> bool:
        """Whether a file is as the index lists it, by size and modification time."""
        return self.index is not None and name in self.index.files and self.stamps.get(name) == stamp_of(path)

    def note(self, files: Iterable[tuple[str, Path]]) -> None:
        """These files are as the index lists them."""
        for name, path in files:
            self.stamps[name] = stamp_of(path)
            self.removed.discard(name)

    def below(self, name: str) -> set[str]:
        """Files of the index that are this one, or in a folder of that name."""
        files = self.index.files if self.index else {}
        return {each for each in files if each == name or each.startswith(f"{name}/")}


def stamp_of(path: Path) -> Stamp:
    """Size and modification time of a file."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
