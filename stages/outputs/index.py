"""The index of a unit at its address: one small object that says which files the unit is made of, written last.

    <address>/.scoreonce/index/<unit>.json

Replacing it makes a new state of the unit the one that readers see. What it does not list is not there for them, and
nothing that no index has listed is ever removed.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import checked_json, parse_checked_json
from scoreonce.stages.outputs.units import is_safe, is_unit
from scoreonce.stages.remote.folder import RemoteFolder

FOLDER = ".scoreonce/index"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """A file as it was published. One that grows has no digest: it checks itself."""

    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Index:
    """The files of a unit, and those that may lie there and are no part of it: being written, or to be removed."""

    files: Mapping[str, Entry] = field(default_factory=dict)
    loose: frozenset[str] = frozenset()
    token: str = field(default_factory=lambda: secrets.token_hex(8))  # another one each time it is written

    def tree(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "format": FORMAT,
            "token": self.token,
            "files": {name: [entry.bytes, entry.sha256] for name, entry in self.files.items()},
            "loose": sorted(self.loose),
        }

    @classmethod
    def of(cls, tree: Any, unit: str) -> Index:
        """The index in a JSON tree. Raises `ValueError`, `KeyError` or `TypeError` where it is none of this unit."""
        if tree["format"] != FORMAT:
            raise ValueError(f"format {tree['format']!r}; this version reads format {FORMAT}")
        files = {str(name): Entry(int(size), digest) for name, (size, digest) in tree["files"].items()}
        loose = frozenset(map(str, tree["loose"]))
        if strange := [name for name in (*files, *loose) if not is_safe(name, unit)]:
            raise ValueError(f"it lists {strange[0]!r}, which is no file of {unit}")
        return cls(files, loose, str(tree["token"]))


def read(remote: RemoteFolder, unit: str) -> Index | None:
    """The index of a unit, None where nothing of it was published.

    Raises `InputError` where it is damaged, or the address cannot be read.
    """
    name = f"{FOLDER}/{unit}.json"
    contents = remote.read(name)
    if contents is None:
        return None
    try:
        return Index.of(parse_checked_json(contents.decode()), unit)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"The list of what was published of {unit} cannot be read.",
            found=f"{type(error).__name__}: {error}",
            where=f"{remote.address}/{name}",
            fix="Restore this object from an earlier version; or remove it and what lies below "
            f"{remote.address}/{unit}, and run the command that makes it again.",
        ) from None


def write(remote: RemoteFolder, unit: str, index: Index) -> None:
    """Make `index` the state of a unit that readers see."""
    remote.write(f"{FOLDER}/{unit}.json", checked_json(index.tree()).encode())


def published_units(remote: RemoteFolder) -> list[str]:
    """The units of which something was published."""
    names = (name.removesuffix(".json") for name in remote.below(FOLDER).files())
    return sorted(name for name in names if is_unit(name))
