"""Digests of files.

What a run wrote is read and hashed by every process that uses it, once (`digests_now`). Models and raw data, which are
large and the user's own, are hashed once and remembered by path, size and modification time (`file_digests`); a Hub
download already carries its SHA-256 in the name of the cached blob. `--rehash` reads them again.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from scoreonce.stages.common.files import read_json, sha256, write_json
from scoreonce.stages.common.paths import cache_folder
from scoreonce.stages.common.progress import progress

# A file written in the same clock tick as its digest could change again without a new modification time.
_SETTLED_SECONDS = 2.0
_SHOW_PROGRESS_BYTES = 2 * 1024**3

# Set by the command line's --rehash: nothing that an earlier process remembered is believed.
rehash = False
_read: dict[Path, tuple[os.stat_result, str]] = {}  # files that this process has hashed


def file_digests(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file, from memory where path, size and modification time are those remembered."""
    remembered = {} if rehash else _recall()
    known = [None if rehash else _blob_name(path) or _lookup(remembered, path) for path in paths]
    unknown = [path for path, digest in zip(paths, known, strict=True) if digest is None]
    fresh = dict(zip(unknown, digests_now(unknown), strict=True))
    _remember(fresh)
    return [digest or fresh[path] for path, digest in zip(paths, known, strict=True)]


def digests_now(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file, every byte of it read by this process; a file that it has read is not read twice."""
    found = {path: path.stat() for path in paths}
    unknown = [path for path, status in found.items() if path not in _read or not _unchanged(_read[path][0], status)]
    for path, digest in zip(unknown, _hash(unknown), strict=True):
        _read[path] = found[path], digest
    return [_read[path][1] for path in paths]


def _unchanged(then: os.stat_result, now: os.stat_result) -> bool:
    return all(
        getattr(then, name) == getattr(now, name) for name in ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    )


def memo_path() -> Path:
    """The file that remembers digests, in the cache."""
    return cache_folder() / "digests.json"


def _hash(paths: list[Path]) -> list[str]:
    large = sum(path.stat().st_size for path in paths) > _SHOW_PROGRESS_BYTES
    with (
        ThreadPoolExecutor(max_workers=os.cpu_count()) as pool,
        progress(len(paths), "files", "Hashing", enabled=large) as bar,
    ):
        digests = []
        for digest in pool.map(sha256, paths):
            digests.append(digest)
            bar.update(1)
    return digests


def _blob_name(path: Path) -> str | None:
    """The SHA-256 that names a Hub cache blob, if `path` is a link to one (small files have shorter git names)."""
    if not path.is_symlink():
        return None
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name) else None


def _stamp(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _lookup(remembered: dict[str, Any], path: Path) -> str | None:
    match remembered.get(str(path.resolve())):
        case {"sha256": str(digest), **stamp} if stamp == _stamp(path):
            return digest
    return None


def _recall() -> dict[str, Any]:
    """What is remembered. A memo that is absent, unreadable or damaged only costs a second reading of the files."""
    try:
        memo = read_json(memo_path())
    except (OSError, ValueError):
        return {}
    return memo if isinstance(memo, dict) else {}


def _remember(fresh: dict[Path, str]) -> None:
    settled = time.time() - _SETTLED_SECONDS
    entries = {
        str(path.resolve()): {**_stamp(path), "sha256": digest}
        for path, digest in fresh.items()
        if path.stat().st_mtime < settled
    }
    if not entries:
        return
    with suppress(OSError):  # a home that cannot be written to costs the memory, not the run
        memo_path().parent.mkdir(parents=True, exist_ok=True)
        with FileLock(memo_path().with_suffix(".lock")):
            write_json(memo_path(), _recall() | entries)
