"""Reading manifests, finding what differs from them, and checking the files that they vouch for."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.schemas.manifests import FilesManifest, Manifest
from scoreonce.stages.common.digests import digests_now
from scoreonce.stages.common.files import read_json, write_json

ManifestT = TypeVar("ManifestT", bound=Manifest)
FilesManifestT = TypeVar("FilesManifestT", bound=FilesManifest)


class _Word:
    """Stands for a value that no setting has: one can be None."""

    def __init__(self, word: str) -> None:
        self._word = word

    def __repr__(self) -> str:
        return self._word


ABSENT = _Word("nothing")  # of a key that one side lacks
UNREADABLE = _Word("unreadable")  # of a manifest that is absent or damaged


LONGEST_SHOWN = 200  # characters of a value, which may be a chat template


@dataclass(frozen=True)
class Difference:
    """One key that has another value now than when the work was done."""

    key: str
    then: Any
    now: Any

    def text(self, done: str) -> str:
        """`data.max_length: prepared with 192, now 400`, where `done` is "prepared"."""
        if self.now is UNREADABLE:
            return f"{self.key} cannot be read"
        return f"{self.key}: {done} with {_shown(self.then)}, now {_shown(self.now)}"


def differences(key: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What differs between two trees of settings, under the dotted keys of their leaves; lists are leaves."""
    found: list[Difference] = []
    for name in [*then, *(name for name in now if name not in then)]:
        left, right, inner = then.get(name, ABSENT), now.get(name, ABSENT), f"{key}.{name}" if key else name
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += differences(inner, left, right)
        elif left != right:
            found.append(Difference(inner, left, right))
    return found


def listed(found: Sequence[Difference], done: str) -> str:
    """The differences as the `found` part of an error, one per line."""
    return "\n         ".join(difference.text(done) for difference in found)


def again(doing: str, found: Sequence[Difference], done: str) -> str:
    """Why finished work is done again, as a message: `again("Preparing", found, "prepared")`."""
    return "\n  ".join([f"{doing} again:", *(difference.text(done) for difference in found)])


def _shown(value: Any) -> str:
    if value is None or value is ABSENT:
        return "nothing"
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return f"{value[:16]}…"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def read(kind: type[ManifestT], path: Path) -> ManifestT:
    """The manifest at `path`. Raises `InputError` where it is absent, damaged, or of a format that is not read."""
    return parse(kind, load(kind, path), path)


def load(kind: type[Manifest], path: Path) -> Any:
    """The JSON of a manifest, or of a document that holds one. Raises `InputError` where there is none."""
    try:
        return read_json(path)
    except FileNotFoundError:
        near, others = _of_other_labels(kind, path)
        raise InputError(
            kind.absent, found=f"no file {path}{near}", where="`out` of the run file", fix=f"{others}{command(kind)}"
        ) from None
    except (OSError, ValueError) as error:  # bad JSON and bad UTF-8 are ValueErrors
        raise InputError(
            f"The manifest of {kind.title} cannot be read.", found=str(error), where=str(path), fix=command(kind)
        ) from None


def _of_other_labels(kind: type[Manifest], path: Path) -> tuple[str, str]:
    """The nearest label that has such a manifest, and all of them, as parts of a message; empty where there is none."""
    if "label" not in kind.model_fields:
        return "", ""
    known = sorted(found.parent.name for found in path.parent.parent.glob(f"[!.]*/{path.name}"))
    if not known:
        return "", ""
    near = did_you_mean(path.parent.name, known)
    return (f".{near}" if near else ""), f"Give one of these labels: {', '.join(known)}. Or for a new one: "


def parse(kind: type[ManifestT], tree: Any, path: Path) -> ManifestT:
    """The manifest in what was read from `path`. Raises `InputError` as `read` does."""
    version = tree.get("format") if isinstance(tree, dict) else None
    if version not in kind.formats():
        reads = " and ".join(map(str, kind.formats()))
        raise InputError(
            f"The manifest of {kind.title} was written by another version of scoreonce.",
            found=f"{'no format' if version is None else f'format {version!r}'}; this version reads format {reads}",
            where=str(path),
            fix=command(kind),
        )
    try:
        return kind.model_validate(tree)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"]))
        raise InputError(
            f"The manifest of {kind.title} is damaged.",
            found=f"{location}: {first['msg']}",
            where=str(path),
            fix=command(kind),
        ) from None


def readable(kind: type[ManifestT], path: Path) -> ManifestT | None:
    """The manifest at `path`; None where there is none that can be read, for a stage that would rewrite it."""
    try:
        return read(kind, path)
    except InputError:
        return None


def write(path: Path, manifest: Manifest) -> None:
    """Write a manifest atomically. It comes last: its existence means that the work is complete."""
    write_json(path, manifest.model_dump(mode="json"))


def changes(kind: type[FilesManifestT], path: Path, wanted: Mapping[str, Any]) -> list[Difference]:
    """What differs between finished work and the work that is wanted; empty where it need not be done again.

    `wanted` has the fields of the manifest that decide. A file that is not as it was written is a difference too.
    """
    done = readable(kind, path)
    if done is None:
        return [Difference(path.name, ABSENT, UNREADABLE)]
    then = done.model_dump(mode="json", include=set(wanted))
    return [*differences("", then, wanted), *file_changes(done, path.parent)]


def file_changes(
    manifest: FilesManifest,
    folder: Path,
    names: Collection[str] | None = None,
    *,
    digests: Callable[[Sequence[Path]], list[str]] = digests_now,
) -> list[Difference]:
    """The files in `folder` that are not the ones that the manifest vouches for: SHA-256 then and now."""
    wanted = [name for name in manifest.files if names is None or name in names]
    there = [name for name in wanted if (folder / name).is_file()]
    now = dict(zip(there, digests([folder / name for name in there]), strict=True))
    pairs = ((name, manifest.files[name], now.get(name, ABSENT)) for name in wanted)
    return [Difference(name, then, found) for name, then, found in pairs if then != found]


def require_files(manifest: FilesManifest, folder: Path, names: Collection[str] | None = None) -> None:
    """Check that the files that the manifest vouches for, or those named, are the ones that were written.

    Raises `InputError` where one is absent or its SHA-256 differs.
    """
    for changed in file_changes(manifest, folder, names):
        missing = changed.now is ABSENT
        fault = "missing" if missing else f"not what `scoreonce {manifest.stage}` wrote"
        raise InputError(
            f"A file of {manifest.title} is {fault}.",
            found=f"no {changed.key}" if missing else f"SHA-256 {_shown(changed.now)}, not {_shown(changed.then)}",
            where=str(folder / changed.key),
            fix=command(type(manifest)),
        )


def command(kind: type[Manifest]) -> str:
    """What to do where a manifest or its files cannot be used."""
    return f"Run `scoreonce {kind.stage}` with this run file."
