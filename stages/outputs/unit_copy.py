"""One unit in the local copy: fetched from its address, and published there.

Fetching: the index says which files there are, with their digests; what is absent or different here is fetched, and
every byte is compared before a file gets its name. Where another machine has published since, the address counts and
not the copy.

Publishing: an index without what is about to change, the files, the index of the new state, and at last the removal of
what is no part of it. A reader sees the state before, the state after, or for a replaced result none in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from scoreonce.pipeline.pages.numbers import size
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.digests import digests_now
from scoreonce.stages.common.files import atomic, sha256
from scoreonce.stages.common.progress import progress
from scoreonce.stages.common.removal import remove, require_inside
from scoreonce.stages.outputs import index as indexes
from scoreonce.stages.outputs.index import Entry, Index
from scoreonce.stages.outputs.record import Record, stamp_of
from scoreonce.stages.outputs.units import (
    files_in,
    grows,
    in_order,
    is_of_checkpoint,
    is_replaced,
    marker_of,
    vouches,
)
from scoreonce.stages.remote.folder import HalfObjectError, RemoteFolder

logger = logging.getLogger(__name__)

THREADS = 4  # files at a time; of a large one, fsspec sends several parts at a time
LOOKS = 5  # at a unit that others publish while it is fetched


class SupersededError(InputError):
    """Another machine has published what this command is about to."""


class UnitCopy:
    """One unit of a run: its files in the folder `out`, and at the address `remote`, of which `out` is the copy."""

    def __init__(self, unit: str, out: Path, records: Path, remote: RemoteFolder) -> None:
        self.unit, self.remote, self._out = unit, remote, out
        self._path = records / f"{unit}.json"
        self._refused: set[str] = set()  # files at the address that are not what the index says

    @property
    def record(self) -> Record:
        """What is known of the copy."""
        return Record.read(self._path, self.unit)

    def fetch(self, wanted: Callable[[str], bool]) -> None:
        """Make the copy what is at the address, as far as files are `wanted`, but for what is not published yet.

        A file that is not what the index says is named and not taken. Raises `InputError` where the address cannot be
        read.
        """
        for _ in range(LOOKS):
            known = self._follow(indexes.read(self.remote, self.unit))
            if known.index is None or self._fetched(known, wanted):
                return
        raise InputError(
            "What is at an address changes faster than it is fetched.",
            found=f"{LOOKS} other states of {self.unit} in {LOOKS} looks",
            where=self.remote.address,
            fix="Run the command again when nobody publishes there.",
        )

    def _follow(self, there: Index | None) -> Record:
        """The record, after what another machine has published since, or removed, was taken over."""
        known = self.record
        if (known.index and known.index.token) == (there and there.token) or (there is None and known.index is None):
            return known
        listed = there.files if there else {}
        kept, gone, lost = Record(there), [], 0
        for name, path in files_in(self._out, self.unit).items():
            entry = listed.get(name)
            if entry and entry.sha256 and entry.sha256 == self._digest(known, name, path):
                kept.note([(name, path)])
            else:
                lost += not known.is_current(name, path) and not grows(name)
                gone.append(path)
        if lost:
            logger.warning(
                f"{self.unit}: another machine has published at {self.remote.address} since; {lost:,} files that were "
                "only in the copy here are removed"
            )
        for path in gone:
            remove(path, inside=self._out)
            for folder in path.parents:  # an empty folder would count as a checkpoint, or as a model
                if folder == self._out or any(folder.iterdir()):
                    break
                remove(folder, inside=self._out)
        kept.write(self._path)
        return kept

    def _digest(self, known: Record, name: str, path: Path) -> str | None:
        """SHA-256 of a file of the copy, from the record where it is unchanged."""
        if known.index is not None and known.is_current(name, path):
            return known.index.files[name].sha256
        return sha256(path)

    def _fetched(self, known: Record, wanted: Callable[[str], bool]) -> bool:
        """Fetch what is missing; whether the index was the same to the end, or nothing was amiss with it."""
        assert known.index is not None
        files = known.index.files
        finished = f"{self.unit}/model/scoreonce.json" in files
        missing = {
            name: entry
            for name, entry in files.items()
            if wanted(name)
            and name not in known.removed
            and not (self._out / name).exists()
            and not (finished and is_of_checkpoint(name))  # nobody goes on from there
        }
        if not missing:
            return True
        total = sum(entry.bytes for entry in missing.values())
        logger.info(f"fetching {len(missing):,} files ({size(total)}) of {self.unit} at {self.remote.address}")
        with ThreadPoolExecutor(THREADS) as pool, progress(len(missing), "files", "fetching") as bar:
            amiss = {}
            for name, reason in pool.map(self._fetch, missing, missing.values()):
                bar.update(1)
                if reason is None:
                    known.note([(name, self._out / name)])
                else:
                    amiss[name] = reason
        known.write(self._path)
        now = indexes.read(self.remote, self.unit) if amiss else known.index
        if now is None or now.token != known.index.token:
            return False
        self._refused |= amiss.keys()
        for name, reason in amiss.items():
            logger.warning(f"not used: {self.remote.address}/{name}: {reason}")
        return True

    def _fetch(self, name: str, entry: Entry) -> tuple[str, str | None]:
        """Fetch a file; its name, and what is wrong with it there if something is."""
        path = self._out / name

        def whole() -> None:
            with atomic(path) as temporary:
                self.remote.download(name, temporary, expected=entry.bytes)
                self._require_whole(temporary, name, entry)

        require_inside(path.parent, self._out.parent)
        try:
            self.remote.retries.few()(whole)
        except FileNotFoundError:
            return name, "there is no such object"
        except HalfObjectError as error:
            return name, str(error)
        return name, None

    def _require_whole(self, path: Path, name: str, entry: Entry) -> None:
        """Raise `HalfObjectError` where a file that was fetched is not what was published, as far as that is known."""
        there = entry.bytes
        if entry.sha256 is None:
            found = self.remote.look(name)
            there = found.size if found else 0
        if (here := path.stat().st_size) != there:
            raise HalfObjectError(f"{here:,} bytes where {there:,} were written")
        if entry.sha256 and sha256(path) != entry.sha256:
            raise HalfObjectError("the contents do not have the SHA-256 that was written")

    def removes(self, name: str) -> None:
        """Write down that a file or folder of the copy is about to be removed, which the address is to be told."""
        known = self.record
        if found := known.below(name) - known.removed:
            known.removed |= found
            known.write(self._path)

    def is_unpublished(self) -> bool:
        """Whether the copy has a whole result that differs from what is at the address, as far as is known here."""
        known, local = self.record, files_in(self._out, self.unit)
        changed = any(not known.is_current(name, path) for name, path in local.items())
        return bool((changed and marker_of(self.unit) in local) or (known.removed - local.keys()))

    def publish(self, still_mine: Callable[[], None] = lambda: None) -> None:
        """Make the address what the copy is; nothing where it is, or where the result is not whole yet.

        `still_mine` is asked before readers see another state. Raises `SupersededError` where another machine has
        published since, `InputError` where the address cannot be written.
        """
        local = files_in(self._out, self.unit)
        if local and marker_of(self.unit) not in local:
            return
        known = self._compared(local)
        old = known.index.files if known.index else {}
        gone = (known.removed & old.keys()) - local.keys()
        changed = [name for name, path in local.items() if not known.is_current(name, path)]
        loose = known.index.loose if known.index else frozenset()
        if not changed and not gone and not loose:
            return
        stamps = {name: stamp_of(local[name]) for name in changed}
        still = [name for name in changed if not grows(name)]
        digests = dict(zip(still, digests_now([local[name] for name in still]), strict=True))
        entries = {name: Entry(stamps[name][0], digests.get(name)) for name in changed}
        still_mine()
        new = {name: entry for name, entry in old.items() if name not in gone} | entries
        loose = loose | gone
        if changed:
            # Old checkpoints must not be seen beside the files of a run that was begun anew.
            kept = {} if marker_of(self.unit) in known.removed else _kept(old, entries)
            self._list(known, Index(kept, (loose | entries.keys() | old.keys()) - kept.keys()))
            self._upload(entries)
            still_mine()
        self._list(known, Index(new, loose - new.keys()))
        known.stamps |= stamps
        known.removed.clear()
        known.write(self._path)
        self._remove(known, loose - new.keys())
        if changed:
            total = size(sum(entry.bytes for entry in entries.values()))
            logger.info(f"published {self.unit}: {len(changed):,} files ({total}) at {self.remote.address}")

    def _compared(self, local: Mapping[str, Path]) -> Record:
        """The record, once it is sure that the copy continues what is at the address.

        What was written again with the same contents is not a change.
        """
        known, there = self.record, indexes.read(self.remote, self.unit)
        if there is not None and (known.index is None or known.index.token != there.token):
            if there.files.keys() != local.keys() or any(
                entry.sha256 not in (None, sha256(local[name])) for name, entry in there.files.items()
            ):
                raise _superseded(self.unit, self.remote.address)
            known = Record(there)
        elif there is None and known.index is not None:
            raise _superseded(self.unit, self.remote.address)
        elif there is None:
            self.require_free()
        files = known.index.files if known.index else {}
        touched = {
            name: path
            for name, path in local.items()
            if name in files and not known.is_current(name, path) and name not in self._refused
        }
        same = {name: path for name, path in touched.items() if files[name].sha256 in {sha256(path)}}
        if same:
            known.note(same.items())
            known.write(self._path)
        return known

    def require_free(self) -> None:
        """Raise `InputError` where files lie at the place of a unit of which nothing was published."""
        if self.unit == marker_of(self.unit):
            found = [self.unit] if self.remote.exists(self.unit) else []
        else:
            found = list(self.remote.below(self.unit).files())
        if found:
            raise InputError(
                "There are files at an address that scoreonce has not published.",
                found=f"{len(found):,} files, {found[0]} the first",
                where=f"{self.remote.address}/{self.unit}",
                fix="Set `out` to another address. Or, if they are of a run in a local folder: copy that folder into "
                "the one that `scoreonce path RUN.toml out` prints, remove them there, and run `scoreonce report`.",
            )

    def _list(self, known: Record, index: Index) -> None:
        """Make this the state that readers see, and remember that it is."""
        indexes.write(self.remote, self.unit, index)
        known.index = index
        known.write(self._path)

    def _upload(self, names: Collection[str]) -> None:
        with ThreadPoolExecutor(THREADS) as pool, progress(len(names), "files", "publishing") as bar:
            for group in in_order(names):
                for _ in pool.map(lambda name: self.remote.upload(self._out / name, name), group):
                    bar.update(1)

    def _remove(self, known: Record, names: Collection[str]) -> None:
        """Remove what is no part of the unit any more. What is left because this fails, the next command removes."""
        if not names:
            return
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self.remote.remove, sorted(names)))
        assert known.index is not None
        known.index = replace(known.index, loose=frozenset())
        known.write(self._path)


def _kept(old: Mapping[str, Entry], changed: Collection[str]) -> dict[str, Entry]:
    """What stays listed while files are written: not those that are replaced, nor what one file vouches for with them.

    A checkpoint that is to be removed stays until the next one is listed.
    """
    replaced = {name for name in changed if name in old and not is_replaced(name)}
    whole = {_folder(name) for name in old if vouches(name)} & {_folder(name) for name in replaced}
    return {name: entry for name, entry in old.items() if name not in replaced and _folder(name) not in whole}


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _superseded(unit: str, address: str) -> SupersededError:
    return SupersededError(
        "Another machine has published the same result meanwhile.",
        found=f"{unit} is not as it was when this command began",
        where=address,
        fix="Run the same command again: it goes on from what is there now. One machine at a time writes a label.",
    )
