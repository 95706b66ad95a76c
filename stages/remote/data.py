"""The local copy of data at an address: fetched once, and again where size or version (ETag, date) changed.

<cache>/data/<name>-<digest>/files/      the files, named as at the address
<cache>/data/<name>-<digest>/copy.json   size and version of each when it was fetched, written last
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from scoreonce.pipeline.pages.numbers import size
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import atomic, read_json, write_json
from scoreonce.stages.common.locking import exclusive
from scoreonce.stages.common.paths import copy_of
from scoreonce.stages.common.progress import progress
from scoreonce.stages.remote.folder import RemoteFile, RemoteFolder

logger = logging.getLogger(__name__)

THREADS = 8
Pick = Callable[[Sequence[PurePosixPath]], Sequence[PurePosixPath]]


def fetched(address: str, pick: Pick) -> dict[str, Path]:
    """Local copies of the files at an address, by address, in the order of `pick`.

    `pick` chooses among the names of the files of a folder, and must leave out those with `..` in them: they become
    names in the cache. A single file is taken as it is. Raises `InputError` where there is nothing at the address, or
    it cannot be reached.
    """
    remote, folder = RemoteFolder.open(address), copy_of(address, "data")
    listed = remote.files()
    if not listed:
        raise InputError(
            "There is nothing at an address.",
            found="no file of that name, and none below it",
            where=address,
            fix="Correct the address; upper and lower case differ.",
        )
    if list(listed) == [""]:
        names = {address: ("", PurePosixPath(address.rpartition("/")[2]))}
    else:
        names = {f"{address}/{name}": (str(name), name) for name in pick([PurePosixPath(name) for name in listed])}
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / "copy.lock", f"the copy of {address}"):
        _bring_up_to_date(remote, folder, {name: (listed[name], str(local)) for name, local in names.values()})
    return {full: folder / "files" / local for full, (_, local) in names.items()}


def _bring_up_to_date(remote: RemoteFolder, folder: Path, wanted: dict[str, tuple[RemoteFile, str]]) -> None:
    known = _known(folder / "copy.json")
    stale = [name for name, (file, local) in wanted.items() if not _is_current(folder, known.get(local), file, local)]
    if not stale:
        return
    # Forgotten before they are replaced: a file whose entry is older than itself would be taken for current.
    for name in stale:
        known.pop(wanted[name][1], None)
    write_json(folder / "copy.json", known)
    total = sum(wanted[name][0].size for name in stale)
    logger.info(f"fetching {len(stale):,} files ({size(total)}) of {remote.address}")

    def fetch(name: str) -> str:
        file, local = wanted[name]
        try:
            with atomic(folder / "files" / local) as temporary:
                remote.download(name, temporary, size=file.size)
        except FileNotFoundError:
            raise _gone(remote, name) from None
        return name

    with ThreadPoolExecutor(THREADS) as pool, progress(len(stale), "files", "fetching") as bar:
        for name in pool.map(fetch, stale):
            file, local = wanted[name]
            known[local] = {"size": file.size, "version": file.version}
            bar.update(1)
    write_json(folder / "copy.json", known)


def _is_current(folder: Path, known: Any, file: RemoteFile, local: str) -> bool:
    path = folder / "files" / local
    whole = path.is_file() and path.stat().st_size == file.size
    return whole and file.version is not None and known == {"size": file.size, "version": file.version}


def _known(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _gone(remote: RemoteFolder, name: str) -> InputError:
    return InputError(
        "A data file was removed while it was read.",
        found="it is listed, and cannot be found",
        where=f"{remote.address}/{name}" if name else remote.address,
        fix="Run the command again once nothing changes the data.",
    )
