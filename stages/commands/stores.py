"""`scoreonce store`, for a store in a folder or at an address.

At an address nothing is locked, so only what cannot hurt others is done there: looking, and removing what was never
finished or is named by its key.
"""

from __future__ import annotations

import logging
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scoreonce.pipeline.pages.numbers import size
from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.common.removal import remove
from scoreonce.stages.config import Run
from scoreonce.stages.remote.folder import HalfObjectError, RemoteFile, RemoteFolder, age
from scoreonce.stages.store import compact as compacting
from scoreonce.stages.store import maintenance
from scoreonce.stages.store.mirror import IDENTITY, fetch_checked, layers_in, listed_files
from scoreonce.stages.store.sidecar import sidecar_of

logger = logging.getLogger(__name__)

UNFINISHED = 24 * 3600.0  # seconds after which a file without a sidecar counts as that of a killed command
Listed = dict[str, RemoteFile]
_KEY = re.compile("[0-9a-f]{32}")


def list_stores(run: Run) -> None:
    """Print one line per store and layer. Only sidecars are read."""
    paths = RunPaths.of(run)
    if paths.store_address is None:
        maintenance.list_stores(paths.store)
        return
    remote = RemoteFolder.open(paths.store_address)
    with tempfile.TemporaryDirectory() as folder:
        # What a listing needs of a store, laid out as a store.
        for key, listed in _stores(remote).items():
            (Path(folder) / key / "shards").mkdir(parents=True)
            for name in [IDENTITY, *_sidecars(listed)]:
                if name in listed:
                    local = Path(folder) / key / name
                    local.parent.mkdir(exist_ok=True)
                    remote.download(f"{key}/{name}", local)
        maintenance.list_stores(Path(folder))


def verify(run: Run) -> int:
    """Read every byte of every store, print what is damaged, and return how many files are."""
    paths = RunPaths.of(run)
    if paths.store_address is None:
        return maintenance.verify(paths.store)
    remote, damaged = RemoteFolder.open(paths.store_address), 0
    for key, listed in _stores(remote).items():
        store = remote.below(key)
        found = {name: _damage(store, name) for name in _files(listed)}
        bad = {name: reason for name, reason in found.items() if reason is not None}
        damaged += len(bad)
        counts = ", ".join(f"{len(listed_files(listed, layer)):,} {layer}" for layer in layers_in(listed))
        logger.info(f"{key}  {counts}, {f'{len(bad):,} damaged' if bad else 'all sound'}")
        for name, reason in bad.items():
            logger.info(f"  {store.address}/{name}: {reason}")
        for name in _unfinished(listed):
            logger.info(f"  {store.address}/{name}: no sidecar, so it is being written, or was never finished")
    if damaged:
        logger.info(
            "Damaged files at an address are not used: `scoreonce score` scores what is missing without them. To be "
            "rid of them, remove them and their sidecars (.json) with the provider's tool."
        )
    return damaged


def gc(run: Run, *, prune: bool, drop: Sequence[str], now: Callable[[], float] = time.time) -> None:
    """Remove leftovers, and what is named. At an address, leftovers are a day old: younger ones may be a writer's.

    Raises `InputError` for an unknown key, and for `prune` at an address.
    """
    paths = RunPaths.of(run)
    address = paths.store_address
    if address is None:
        maintenance.gc(paths.store, keep=[paths.pairs(split) for split in SPLITS] if prune else [], drop=drop)
        return
    if prune:
        raise _refused("Completions cannot be removed from a store at an address one by one.", "--prune", address)
    remote = RemoteFolder.open(address)
    stores = _stores(remote)
    if unknown := [key for key in drop if key not in stores]:
        raise InputError(
            "There is no such reference store.",
            found=f"{unknown[0]}.{did_you_mean(unknown[0], list(stores))}",
            where=address,
            fix="Take a key from `scoreonce store list`.",
        )
    freed = 0
    for key, listed in stores.items():
        if key in drop:
            # Sidecars first: whoever reads meanwhile finds no file, and not half a store.
            names = sorted(listed, key=lambda name: (not name.endswith(".json"), name))
        else:
            names = [name for name in _unfinished(listed) if age(listed[name], now) > UNFINISHED]
        for name in names:
            remote.remove(f"{key}/{name}")
        freed += sum(listed[name].size for name in names)
        if key in drop and (paths.store / key).exists():
            remove(paths.store / key, inside=paths.store)
    logger.info(f"freed {size(freed)} in {address}")


def compact(run: Run) -> None:
    """Merge small files. Raises `InputError` for a store at an address."""
    paths = RunPaths.of(run)
    if paths.store_address is not None:
        raise _refused("A store at an address is not merged.", "store compact", paths.store_address)
    compacting.compact(paths.store)


def _refused(what: str, found: str, address: str) -> InputError:
    return InputError(
        what,
        found=found,
        where=address,
        fix="Other machines may be reading and writing there, and nothing is locked. When none is: copy the store to a "
        "folder, set score.store to that, run the command, and copy the folder to a new address, files before sidecars "
        "(.json).",
    )


def _stores(remote: RemoteFolder) -> dict[str, Listed]:
    """What is listed of each store by its key. Raises `InputError` where there is none."""
    stores: dict[str, Listed] = {}
    for name, file in remote.files().items():
        key, _, rest = name.partition("/")
        if rest and _KEY.fullmatch(key):
            stores.setdefault(key, {})[rest] = file
    found = {key: listed for key, listed in stores.items() if IDENTITY in listed or layers_in(listed)}
    if not found:
        raise InputError(
            "There is no reference store yet.",
            found=f"nothing of one at {remote.address}",
            where="score.store of the run file",
            fix="Run `scoreonce score` first.",
        )
    return found


def _files(listed: Listed) -> list[str]:
    return [f"{layer}/{name}" for layer in layers_in(listed) for name in listed_files(listed, layer)]


def _sidecars(listed: Listed) -> list[str]:
    return [str(sidecar_of(Path(name))) for name in _files(listed)]


def _unfinished(listed: Listed) -> list[str]:
    """Files of layers that have no sidecar."""
    finished = {*_files(listed), *_sidecars(listed)}
    return [
        name for layer in layers_in(listed) for name in listed if name.startswith(f"{layer}/") and name not in finished
    ]


def _damage(store: RemoteFolder, name: str) -> str | None:
    """What is wrong with a file at an address, every byte of it read, or None."""
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / Path(name).name
        try:
            fetch_checked(store, name, local)
        except FileNotFoundError:
            return "the file is gone, its sidecar is still there"
        except HalfObjectError as error:
            return str(error)
    return None
