"""One writer at a time. Whoever waits is told which process holds the lock."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import read_json, write_json
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.removal import remove, require_inside

logger = logging.getLogger(__name__)


@contextmanager
def exclusive(path: Path, what: str, *, timeout: float | None = None, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` in this block. `what` names the locked thing in messages.

    The operating system releases the lock when its process ends, also when it is killed. Waits for `timeout` seconds
    and then raises `InputError`, or waits forever if it is None; both name the process that holds the lock. A wait of
    up to `patience` seconds is not worth a message.
    """
    holder = path.with_suffix(".holder.json")
    lock = FileLock(path)
    silent = patience if timeout is None else min(patience, timeout)
    left = None if timeout is None else timeout - silent
    try:
        lock.acquire(timeout=silent)
    except Timeout:
        if left != 0:
            logger.warning(f"waiting: {what} is in use by {_description(holder)}")
        _wait(lock, holder, what, left)
    try:
        remove_unfinished(holder, inside=path.parent)
        write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()})
        yield
    finally:
        with suppress(OSError):  # a full or missing disk must not hide the error that ended the block
            remove(holder, inside=path.parent)
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path`."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def is_at_work(path: Path) -> bool:
    """Whether a process holds the lock file `path`, for who only looks.

    The lock is tried only where a process has named itself as its holder: a try could be in the way of one that begins.
    Where it may not be tried, the holder is believed.
    """
    if not path.with_suffix(".holder.json").exists():
        return False
    try:
        return is_held(path)
    except OSError:
        return True


@contextmanager
def locked(
    paths: RunPaths, written: Path, what: str, *, timeout: float | None = None, restart: bool = False
) -> Iterator[None]:
    """Be the only process that writes the file or folder `written` of a run in this block.

    Removes the unfinished files of a killed command there; `restart` removes all that is there. Waits and raises as
    `exclusive` does, and raises `InputError` where `written` leads out of the run's folder.
    """
    path = paths.lock(written)
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path, what, timeout=timeout):
        if restart:
            remove(written, inside=paths.out)
        require_inside(written, paths.out)
        remove_unfinished(written, inside=paths.out)
        yield


def remove_unfinished(written: Path, *, inside: Path) -> None:
    """Remove the temporary files and folders that a killed command left of a file, or in a folder. Needs its lock."""
    found = written.rglob(".*.tmp") if written.is_dir() else written.parent.glob(f".{written.name}.*.tmp")
    for path in list(found):
        remove(path, inside=inside)


def _wait(lock: FileLock, holder: Path, what: str, timeout: float | None) -> None:
    try:
        lock.acquire(timeout=-1 if timeout is None else timeout)
    except Timeout:
        raise InputError(
            f"{what[0].upper()}{what[1:]} is in use by another process.",
            found=_description(holder),
            where=lock.lock_file,
            fix="Wait until it has finished or stop it, then run the command again.",
        ) from None


def _description(holder: Path) -> str:
    try:
        who = read_json(holder)
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown process"  # it has the lock and has not written the file yet


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
