"""A file and its sidecar: how every file of a store is committed, and how it is checked.

The sidecar (JSON: SHA-256, bytes, rows, tokens, provenance) is written last, and removed first. A file without one does
not exist.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import removal
from scoreonce.stages.common.files import atomic, read_json, sha256, write_json
from scoreonce.stages.store.identity import FORMAT


@dataclass(frozen=True)
class Damage:
    """A file that cannot be trusted, and what was found."""

    path: Path
    reason: str
    setting: str = ""  # of the run file, which makes `score` compute its contents again

    def error(self) -> InputError:
        """The same as an error, for stages that only read."""
        setting = f" with {self.setting}" if self.setting else ""
        return InputError(
            "A file of the reference store is damaged.",
            found=self.reason,
            where=str(self.path),
            fix=f"Run `scoreonce score`{setting}: it sets the file aside and scores its completions again.",
        )


class Stamp(NamedTuple):
    """What shows, without reading a file and its sidecar, that they are still those that were checked."""

    bytes: int
    mtime_ns: int
    sidecar_bytes: int
    sidecar_mtime_ns: int


def sidecar_of(path: Path) -> Path:
    """Path of the sidecar of a file."""
    return path.with_suffix(".json")


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a file, None where it or its sidecar is gone."""
    try:
        file, sidecar = path.stat(), sidecar_of(path).stat()
    except FileNotFoundError:
        return None
    return Stamp(file.st_size, file.st_mtime_ns, sidecar.st_size, sidecar.st_mtime_ns)


def stamps_in(folder: Path, suffix: str, *, without: str) -> dict[str, Stamp | None]:
    """The stamp of each file in a folder that has a sidecar, by name; None where the file itself is gone.

    One pass over the folder: at 50,000 files, a path and two look-ups for each would take seconds.
    """
    if not folder.is_dir():
        return {}
    found: dict[str, os.stat_result] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # removed since the folder was listed
                found[entry.name] = entry.stat()
    stamps: dict[str, Stamp | None] = {}
    for name, sidecar in found.items():
        file = name.removesuffix(".json") + suffix
        if name.endswith(".json") and not name.startswith(".") and file != without:
            own = found.get(file)
            stamps[file] = own and Stamp(own.st_size, own.st_mtime_ns, sidecar.st_size, sidecar.st_mtime_ns)
    return stamps


def commit(path: Path, write: Callable[[Path], None], *, rows: int, tokens: int, provenance: dict[str, Any]) -> None:
    """Write a file by `write(temporary path)` and then its sidecar, both synced to disk.

    Whatever goes wrong, nothing of the file remains.
    """
    try:
        with atomic(path) as temporary:
            write(temporary)
        record(path, rows=rows, tokens=tokens, provenance=provenance)
    except BaseException:
        remove(path)
        raise


def record(path: Path, *, rows: int, tokens: int, provenance: dict[str, Any]) -> None:
    """Write the sidecar of a file as it is on disk."""
    write_json(
        sidecar_of(path),
        {
            "format": FORMAT,
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
            "rows": rows,
            "tokens": tokens,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "provenance": provenance,
        },
    )


def remove(path: Path) -> None:
    """Remove a file, or what there is of it. For a writer."""
    for part in (sidecar_of(path), path):  # the sidecar first: without it the file no longer exists
        removal.remove(part, inside=root_of(path))


def root_of(path: Path) -> Path:
    """The folder of all stores that a file belongs to: <root>/<key>/<layer>/<file>."""
    return path.parents[2]


def move_aside(path: Path, folder: Path, *, prefix: str = "") -> None:
    """Move a file and its sidecar into `folder`. For a writer."""
    folder.mkdir(exist_ok=True)
    for part in (sidecar_of(path), path):  # in this order, as in `remove`
        if part.exists():
            part.replace(folder / f"{prefix}{part.name}")


def read_sidecar(path: Path) -> tuple[dict[str, Any], str | None]:
    """What the sidecar of a file states, and what is wrong with it, or None."""
    try:
        match stated := read_json(sidecar_of(path)):
            # Version 0.1 wrote no provenance beside tensors.
            case {"format": 1, "sha256": str(), "bytes": int(), "rows": int(), "tokens": int()}:
                return {"provenance": {}, **stated}, None
        return {}, "the sidecar lacks what it should state"
    except (OSError, ValueError) as error:
        return {}, f"the sidecar cannot be read ({error})"


def size_damage(path: Path) -> str | None:
    """What can be seen to be wrong with a file without reading it, or None."""
    stated, reason = read_sidecar(path)
    if reason is not None:
        return reason
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "the file is gone, its sidecar is still there"
    except OSError as error:
        return str(error)
    return None if size == stated["bytes"] else f"{size:,} bytes where {stated['bytes']:,} were written"


def file_damage(path: Path) -> str | None:
    """What is wrong with a file, every byte of it read, or None."""
    if (reason := size_damage(path)) is not None:
        return reason
    try:
        if sha256(path) != read_sidecar(path)[0].get("sha256"):
            return "the contents do not have the SHA-256 that was written"
    except FileNotFoundError:
        return "the file is gone, its sidecar is still there"
    except OSError as error:
        return str(error)
    return None


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            "The reference store cannot be written; what was finished before stays.",
            found=str(error),
            where=str(folder),
            fix="Free space or permission there, or set score.store to another folder; then run the command "
            "again: it goes on where it stopped.",
        ) from None
