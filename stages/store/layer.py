"""One layer of a store: files of completions, all written, checked, found and removed the same way.

A layer is written by adding files and never by changing one. A completion may be in two files (two writers, one of
them killed; an interrupted merge): the values are the same, so either row will do.
"""

from __future__ import annotations

import logging
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from scoreonce.stages.store.codecs import Codec, Rows
from scoreonce.stages.store.index import Ids, Index, IndexedFile, IndexFile
from scoreonce.stages.store.mirror import Mirror
from scoreonce.stages.store.sidecar import (
    Damage,
    Stamp,
    commit,
    file_damage,
    read_sidecar,
    remove,
    sidecar_of,
    stamp_of,
    stamps_in,
    writable,
)

logger = logging.getLogger(__name__)

THREADS = min(8, os.cpu_count() or 1)
ENTRIES_AT_ONCE = 1 << 24  # ids read from files before they are merged into the index
HEAD = "head.safetensors"  # beside the blocks, with a sidecar of its own: see head.py


class Layer(Generic[Rows]):
    """The files in one folder. Reading takes no lock: files never change once they exist."""

    def __init__(
        self, folder: Path, codec: Codec[Rows], *, unit: str, setting: str = "", mirror: Mirror | None = None
    ) -> None:
        self.folder, self.codec = folder, codec
        self._mirror = mirror  # of the store, where its files are at an address and `folder` is a copy
        self.unit = unit  # what its files are called in messages
        self.setting = setting  # of the run file, which makes `score` fill this layer
        self._index_file = IndexFile(folder.parent / "index" / f"{folder.name}.json")
        self._index: Index | None = None
        self._sound: dict[Path, Stamp] = {}  # files that this object has read and found sound
        self._unsound: set[str] = set()  # names of those that it found damaged

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    def files(self) -> list[Path]:
        """The files that exist: those with a sidecar, oldest first."""
        sidecars = (path for path in self.folder.glob("[!.]*.json") if path != sidecar_of(self.folder / HEAD))
        return sorted(sidecar.with_suffix(self.codec.suffix) for sidecar in sidecars)

    def without_sidecar(self) -> list[Path]:
        """Files that were never finished, or have lost their sidecar."""
        return [path for path in self.leftovers() if not path.name.startswith(".")]

    def leftovers(self) -> list[Path]:
        """Files that are not part of the layer. Only a writer may remove them: they may belong to one."""
        present = [path for path in self.folder.iterdir() if path.is_file()] if self.folder.is_dir() else []
        finished = {path.name for path in self.files()} | {HEAD}
        stray = [path for path in present if path.suffix != ".json" and path.name not in finished]
        return sorted([*stray, *self._index_file.leftovers()])

    def sidecar(self, path: Path) -> dict[str, Any]:
        """What the sidecar of a file states. Raises `InputError` where it is damaged."""
        stated, reason = read_sidecar(path)
        if reason is not None:
            raise self._damage(path, reason).error()
        return stated

    def append(self, rows: Rows, provenance: dict[str, Any], *, mark: str = "") -> Path:
        """Write one file and commit it. Several processes may append at the same time.

        `mark` is that of the part which these rows are of, if any, and stands in the file's name. Raises `InputError`
        where the disk is full or cannot be written; then nothing of the file remains. Where the store's address cannot
        be written, the file stays in the copy, from which the next writer publishes it.
        """
        now = datetime.now(UTC)
        name = "-".join(filter(None, (f"{now:%Y%m%dT%H%M%S%f}", mark, secrets.token_hex(5))))
        path = self.folder / f"{name}{self.codec.suffix}"
        count, tokens = self.codec.size(rows)
        with writable(self.folder.parent):
            commit(
                path, lambda temporary: self.codec.write(rows, temporary), rows=count, tokens=tokens,
                provenance=provenance,
            )  # fmt: skip
        if (stamp := stamp_of(path)) is not None:
            self._sound[path] = stamp
        if self._mirror is not None:
            self._mirror.publish(path)
        return path

    def damage(self) -> list[Damage]:
        """Files that are not what their sidecar says, every byte of all of them read."""
        files = self.files()
        with ThreadPoolExecutor(THREADS) as pool:
            found = zip(files, pool.map(self._read_and_check, files), strict=True)
            return [self._damage(path, reason) for path, reason in found if reason is not None]

    def require_sound(self, path: Path) -> None:
        """Raise `InputError` where a file is damaged. This object reads it once."""
        if (reason := self._reason(path)) is not None:
            # The index may have vouched for it (a disk that lost a bit changes no date): `score` is to look again.
            self.refresh()
            raise self._damage(path, reason).error()

    def read(self, path: Path) -> Rows:
        """All rows of a file. Raises `InputError` where it is damaged."""
        self.require_sound(path)
        try:
            return self.codec.read(path)
        except self.codec.unreadable as error:  # changed since it was checked
            raise self._damage(path, str(error)).error() from None

    def refresh(self) -> list[Damage]:
        """Bring the index up to date with the folder, and return the files that it must leave out.

        Files are read whole and checked once. From then on the index vouches for them, for as long as size and
        modification time of file and sidecar stay the same. What is new at the store's address is fetched first, once.
        """
        if self._mirror is not None:
            self._mirror.pull_once(self.name)
        stamps = stamps_in(self.folder, self.codec.suffix, without=HEAD)
        old = self._index or self._index_file.load()
        gone = {file.name for file in old.files if stamps.get(file.name) != file.stamp or file.name in self._unsound}
        known = {file.name for file in old.files} - gone
        added = [self.folder / name for name in sorted(stamps.keys() - known)]
        damages: list[Damage] = []
        index = old.without(gone, self._index_file.allocate) if gone else old
        for batch in self._batches(added):
            index = self._with_files(index, batch, damages)
        if index is not old:
            self._index_file.save(index)
        self._index = index
        return damages

    def index(self) -> Index:
        """The index of everything stored. Raises `InputError` at a damaged file."""
        for damage in self.refresh():
            raise damage.error()
        assert self._index is not None
        return self._index

    def rebuilt_index(self) -> Index:
        """A new index, made from the files and not from the index on disk. Raises `InputError` at a damaged file."""
        logger.warning("the index of %s is damaged; it is made again from the files", self.folder)
        self._index = Index.empty()
        return self.index()

    def sound_index(self) -> Index:
        """The index of everything stored but in damaged files."""
        self.refresh()
        assert self._index is not None
        return self._index

    def forget_index(self) -> None:
        """Read the index from disk again when it is next needed."""
        self._index = None

    def path_of(self, file: IndexedFile) -> Path:
        """Path of an indexed file."""
        return self.folder / file.name

    def keep_only(self, path: Path, rows: Rows, kept: npt.NDArray[np.bool_]) -> None:
        """Replace a file of `rows` by one with those where `kept` is true, if there are any. For a writer."""
        if kept.all():
            return
        if kept.any():
            self.append(self.codec.take(rows, kept), self.sidecar(path)["provenance"])
        remove(path)

    def _batches(self, paths: list[Path]) -> list[list[Path]]:
        """The files in groups whose ids are in memory together."""
        batches: list[list[Path]] = []
        rows = ENTRIES_AT_ONCE
        for path in paths:
            if rows >= ENTRIES_AT_ONCE:
                batches.append([])
                rows = 0
            batches[-1].append(path)
            rows += read_sidecar(path)[0].get("rows", 0)
        return batches

    def _with_files(self, index: Index, paths: list[Path], damages: list[Damage]) -> Index:
        """The index with more files; the damaged ones among them are added to `damages` instead."""
        files, ids = [], []
        with ThreadPoolExecutor(THREADS) as pool:
            for path, found in zip(paths, pool.map(self._indexed, paths), strict=True):
                if isinstance(found, Damage):
                    # Both gone is no damage: a writer removed the file since the folder was listed.
                    if path.exists() or sidecar_of(path).exists():
                        damages.append(found)
                else:
                    files.append(found[0])
                    ids.append(found[1])
        if not files:
            return index
        return index.merged(files, np.concatenate(ids), self._index_file.allocate)

    def _indexed(self, path: Path) -> tuple[IndexedFile, Ids] | Damage:
        if (reason := self._reason(path)) is not None:
            return self._damage(path, reason)
        try:
            ids = self.codec.ids(path)
        except self.codec.unreadable as error:  # changed since it was checked
            return self._damage(path, str(error))
        return IndexedFile(path.name, len(ids), self._sound[path]), ids

    def _reason(self, path: Path) -> str | None:
        """What is wrong with a file, or None. One that this object found sound and that did not change is not read."""
        if (stamp := stamp_of(path)) is not None and self._sound.get(path) == stamp:
            return None
        return self._read_and_check(path)

    def _read_and_check(self, path: Path) -> str | None:
        stamp = stamp_of(path)  # before the file is read, so that a later change shows
        reason = file_damage(path) or self._miscounted(path)
        if reason is None and stamp is not None:
            self._sound[path] = stamp
            self._unsound.discard(path.name)
        else:
            self._sound.pop(path, None)
            self._unsound.add(path.name)
        return reason

    def _miscounted(self, path: Path) -> str | None:
        stated = read_sidecar(path)[0].get("rows")
        try:
            rows = self.codec.count(path)
        except self.codec.unreadable as error:
            return str(error)
        return None if rows == stated else f"{rows:,} rows where {stated:,} were written"

    def _damage(self, path: Path, reason: str) -> Damage:
        return Damage(path, reason, self.setting)
