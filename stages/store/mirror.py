"""The local copy of a store that lies at an address, in which commands read and write; what joins the two.

Both have the same layout (see store.py), so a store can also be copied to its address, files before sidecars.

    <cache>/stores/<name>/<key>/...          the copy: files whose bytes had the digests of their sidecars
    <cache>/stores/<name>/<key>/published/   an empty file for each one that is at the address too
    <cache>/stores/<name>/<key>/incoming/    what is being fetched, until it has been checked

At the address nothing is renamed, changed or locked. A file is written first and its sidecar last; without one it does
not exist. Names are never used twice, so processes on many machines write beside each other. What fails for good stays
in the copy and is published by the next command that writes.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import read_json, sha256
from scoreonce.stages.common.locking import exclusive
from scoreonce.stages.common.progress import progress
from scoreonce.stages.common.removal import remove as remove_inside
from scoreonce.stages.remote.folder import HalfObjectError, RemoteFile, RemoteFolder
from scoreonce.stages.store.codecs import SCORES, is_layer
from scoreonce.stages.store.sidecar import read_sidecar, remove, sidecar_of

logger = logging.getLogger(__name__)

THREADS = 8
PATIENCE = 10.0  # seconds for which another process that fetches is waited for without a word
IDENTITY = "identity.json"
SUFFIXES = {SCORES: ".parquet"}  # of the files of a layer; of all others .safetensors
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a name at an address becomes one in a folder


def suffix_of(layer: str) -> str:
    """What the names of a layer's files end with."""
    return SUFFIXES.get(layer, ".safetensors")


def listed_files(listed: dict[str, RemoteFile], layer: str) -> dict[str, RemoteFile | None]:
    """The files of a layer that exist at an address by name: those with a sidecar, None where only that is listed."""
    found = {}
    for name in listed:
        folder, _, last = name.rpartition("/")
        if folder == layer and last.endswith(".json") and _NAME.fullmatch(last):
            file = last.removesuffix(".json") + suffix_of(layer)
            found[file] = listed.get(f"{layer}/{file}")
    return found


def layers_in(listed: dict[str, RemoteFile]) -> list[str]:
    """The layers of which there is something at an address, scores first."""
    names = {name.partition("/")[0] for name in listed if "/" in name}
    return sorted((name for name in names if is_layer(name)), key=lambda name: (name != SCORES, name))


def fetch_checked(store: RemoteFolder, name: str, to: Path) -> None:
    """Fetch a file of a layer, "shards/a.parquet", and its sidecar, beside it.

    Raises `HalfObjectError` where the bytes are not those that the sidecar states, and `FileNotFoundError` where one of
    the two is gone.
    """
    sidecar = str(sidecar_of(Path(name)))
    store.download(sidecar, sidecar_of(to))
    stated, reason = read_sidecar(to)
    if reason is not None:
        raise HalfObjectError(reason.replace(str(sidecar_of(to)), f"{store.address}/{sidecar}"))
    store.download(name, to)
    if (size := to.stat().st_size) != stated["bytes"]:
        raise HalfObjectError(f"{size:,} bytes where {stated['bytes']:,} were written")
    if sha256(to) != stated["sha256"]:
        raise HalfObjectError("the contents do not have the SHA-256 that was written")


class Mirror:
    """One store: its folder in the cache, and the address that the folder is a copy of."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, f"{address}/{folder.name}"
        self._remote: RemoteFolder | None = None
        self._fresh: set[str] = set()  # layers that were compared with the address
        self._opening = threading.Lock()

    @property
    def remote(self) -> RemoteFolder:
        """The store at the address. Raises `InputError` where it cannot be reached with what is installed."""
        with self._opening:
            if self._remote is None:
                root, _, key = self.address.rpartition("/")
                self._remote = RemoteFolder.open(root).below(key)
            return self._remote

    def take_as_it_is(self, layers: Sequence[str]) -> None:
        """Another process of this command has just pulled these layers: all are to see the same."""
        self._fresh |= set(layers)

    def pull_once(self, layer: str) -> None:
        """Fetch what is new in a layer, unless this object has done so."""
        if layer not in self._fresh:
            self.pull([layer])

    def pull(self, layers: Sequence[str]) -> None:
        """Make the copies of some layers what is at the address, but for what is not published yet.

        Fetches what is new, every byte of it checked, and removes what was removed there. A file that is not what its
        sidecar says is named and not taken: its completions count as not stored. Raises `InputError` where the address
        cannot be reached.
        """
        with self._fetching():
            listed = self.remote.files()
            if IDENTITY in listed and not (self.folder / IDENTITY).exists():
                self._pull_identity()
            for layer in layers:
                self._pull(layer, listed)
        self._fresh |= set(layers)

    def _pull(self, layer: str, listed: dict[str, RemoteFile]) -> None:
        there = listed_files(listed, layer)
        for name in self._published(layer) - there.keys():
            # Listings may be late: only what is not found by its name either was removed.
            if not self.remote.exists(f"{layer}/{sidecar_of(Path(name)).name}"):
                remove(self.folder / layer / name)
                remove_inside(self._mark(layer, name), inside=self.folder.parent)
        missing = []
        for name in there:
            path = self.folder / layer / name
            if not (path.exists() and sidecar_of(path).exists()):
                missing.append(name)
            elif not self._mark(layer, name).exists() and self._is_whole(layer, name, listed):
                self._set_mark(layer, name)  # published, and killed before that was noted
        if not missing:
            return
        (self.folder / layer).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(THREADS) as pool, progress(len(missing), "files", f"fetching {layer}") as bar:
            for _ in pool.map(lambda name: self._fetch(layer, name), missing):
                bar.update(1)

    def _is_whole(self, layer: str, name: str, listed: dict[str, RemoteFile]) -> bool:
        """Whether file and sidecar are listed with the sizes that they have in the copy."""
        file = self.folder / layer / name
        there = [listed.get(f"{layer}/{path.name}") for path in (file, sidecar_of(file))]
        here = [path.stat().st_size for path in (file, sidecar_of(file))]
        return [found and found.size for found in there] == here

    def _fetch(self, layer: str, name: str) -> None:
        """Fetch one file with its sidecar, and place both once the file has the digest that the sidecar states."""
        with self._incoming(name) as temporary:
            try:
                self.remote.retries.few()(lambda: fetch_checked(self.remote, f"{layer}/{name}", temporary))
            except FileNotFoundError:
                if not self.remote.exists(f"{layer}/{sidecar_of(Path(name)).name}"):
                    return  # removed since it was listed
                self._refuse(layer, name, "the file is gone, its sidecar is still there")
            except HalfObjectError as error:
                self._refuse(layer, name, str(error))
            else:
                path = self.folder / layer / name
                temporary.replace(path)
                sidecar_of(temporary).replace(sidecar_of(path))
                self._set_mark(layer, name)

    def _refuse(self, layer: str, name: str, reason: str) -> None:
        logger.warning(
            f"not used: {self.address}/{layer}/{name}: {reason}; what is missing without it, `scoreonce score` scores"
        )

    def _pull_identity(self) -> None:
        with self._incoming(IDENTITY) as temporary:
            if self._fetch_identity(temporary):  # if not, the next writer writes it again
                temporary.replace(self.folder / IDENTITY)

    def _fetch_identity(self, to: Path) -> bool:
        """Whether there is a sound identity at the address, which is then in the file `to`."""

        def whole() -> None:
            self.remote.download(IDENTITY, to)
            try:
                read_json(to)
            except ValueError as error:
                raise HalfObjectError(str(error)) from None

        try:
            self.remote.retries.few()(whole)
        except (FileNotFoundError, HalfObjectError):
            return False
        return True

    def publish(self, path: Path) -> None:
        """Write a finished file of the copy to the address, its sidecar last. Raises `InputError` where that fails."""
        layer = path.parent.name
        try:
            self.remote.upload(path, f"{layer}/{path.name}")
            self.remote.upload(sidecar_of(path), f"{layer}/{sidecar_of(path).name}")
        except InputError as error:
            raise InputError(
                "The reference store cannot be written at its address.",
                found=f"{error.what} {error.found}",
                where=error.where,
                fix=f"{error.fix} What was scored is kept in {self.folder}, and published then.",
            ) from None
        self._set_mark(layer, path.name)

    def publish_rest(self, mine: Callable[[Path], bool] = lambda path: True) -> None:
        """Publish what an earlier command could not, and the identity. For a writer, of the files that are `mine`."""
        paths = [path for path in self.unpublished() if mine(path)]
        for path in paths:
            self.publish(path)
        if paths:
            logger.info(f"published {len(paths):,} files that were only in {self.folder}")
        if (self.folder / IDENTITY).exists() and not self._has_identity():
            self.remote.upload(self.folder / IDENTITY, IDENTITY)

    def unpublished(self) -> list[Path]:
        """Finished files that are only in the copy."""
        found = []
        for folder in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            if folder.is_dir() and is_layer(folder.name):
                marks = self._published(folder.name)
                sidecars = (path.with_suffix(suffix_of(folder.name)) for path in sorted(folder.glob("[!.]*.json")))
                found += [path for path in sidecars if path.name not in marks and path.exists()]
        return found

    def _has_identity(self) -> bool:
        with self.still(), self._incoming(IDENTITY) as temporary:
            return self._fetch_identity(temporary)

    def _mark(self, layer: str, name: str) -> Path:
        return self.folder / "published" / layer / name

    def _set_mark(self, layer: str, name: str) -> None:
        self._mark(layer, name).parent.mkdir(parents=True, exist_ok=True)
        self._mark(layer, name).touch()

    def _published(self, layer: str) -> set[str]:
        folder = self.folder / "published" / layer
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Keep other processes of this machine from placing what they fetched."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / "fetch.lock", f"the copy of {self.address}", patience=PATIENCE):
            yield

    @contextmanager
    def _fetching(self) -> Iterator[None]:
        with self.still():
            for left in (self.folder / "incoming").glob("*"):  # of a killed command: only one fetches at a time
                remove_inside(left, inside=self.folder.parent)
            yield

    @contextmanager
    def _incoming(self, name: str) -> Iterator[Path]:
        """A temporary path for a file, with room for a sidecar beside it."""
        folder = self.folder / "incoming" / secrets.token_hex(5)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder / name
        finally:
            with suppress(OSError):
                remove_inside(folder, inside=self.folder.parent)
