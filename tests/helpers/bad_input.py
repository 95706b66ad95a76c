"""Commands that are refused: the table entry, and the files that such commands are given."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

BARE = 'out = "o"\n[data]\nsource = "d.jsonl"\n[reference]\nmodel = "m"\n'


@dataclass(frozen=True)
class Case:
    """A command that is refused: what its message has to say, and the files that it is given.

    In `command`, RUN is the run file and {own} an empty folder, in which `make` and `files` put what it reads.
    """

    command: str
    says: tuple[str, ...]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    make: Callable[[Path], object] | None = None
    model: Mapping[str, str | bytes | None] | None = None  # the tiny model in {own}/m, with these files changed

    def __str__(self) -> str:
        return self.command[:70]


def copy_of(folder: Path, to: Path, changed: Mapping[str, str | bytes | None]) -> None:
    """A folder's files, some of them with other contents, or left out."""
    shutil.copytree(folder, to)
    for name, content in changed.items():
        path = to / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
