"""One writer at a time, and the one who waits is told for whom."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import read_json, write_json


@contextmanager
def exclusive(path: Path, what: str, *, timeout: float | None = None) -> Iterator[None]:
    """Hold the lock file `path` in this block; `what` is named to whoever waits.

    The lock ends with the process that holds it, however that ends. Waits without end where `timeout` (seconds) is
    None, else raises `InputError` after it; both say who holds the lock.
    """
    holder = path.with_suffix(".holder.json")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if timeout != 0:
            print(f"waiting: {what} is in use by {_who(holder)}", file=sys.stderr, flush=True)
        _wait(lock, holder, what, timeout)
    try:
        write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()})
        yield
    finally:
        with suppress(OSError):  # a full or vanished disk must not hide the error that ended the block
            holder.unlink(missing_ok=True)
        lock.release()


def _wait(lock: FileLock, holder: Path, what: str, timeout: float | None) -> None:
    try:
        lock.acquire(timeout=-1 if timeout is None else timeout)
    except Timeout:
        raise InputError(
            f"{what[0].upper()}{what[1:]} is in use by another process.",
            found=_who(holder),
            where=lock.lock_file,
            fix="Wait until it has finished, or end it; then give the command again.",
        ) from None


def _who(holder: Path) -> str:
    try:
        who = read_json(holder)
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not yet said which"  # between taking the lock and writing the note


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
