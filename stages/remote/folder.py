"""The files below one address: listed, read, written and removed, each with bounded retries.

An object is written whole or not at all by object stores, and by others as far as they got. So nothing here is believed
because it is there: sizes are compared after every transfer, digests by whoever knows them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from scoreonce.schemas.addresses import scheme_of
from scoreonce.stages.common.files import atomic
from scoreonce.stages.remote import retries
from scoreonce.stages.remote.errors import unusable
from scoreonce.stages.remote.retries import BUGS, Retries, is_of_the_disk

Result = TypeVar("Result")

# One place retries, with a clock that tests replace: clients do not retry themselves. Listings are never remembered.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 60}},
    "file": {"auto_mkdir": True},
}
# When a request is given up. s3fs's own time-outs do not end all: an upload of some kilobytes whose answer never came
# waited for ever.
SECONDS, LISTING_SECONDS = 120.0, 900.0
SLOWEST = 1 << 18  # bytes a second that a transfer may go down to
LARGEST = 1 << 31  # bytes of a file whose size is not known beforehand, for that limit
_VERSIONS = ("ETag", "etag", "generation", "xet_hash", "blob_id")
_DATES = ("mtime", "LastModified", "last_modified", "updated", "created")


class HalfObjectError(OSError):
    """What was transferred is not what was meant to be."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as the listing has it."""

    size: int
    version: str | None  # another one where the contents changed; None where the listing does not say
    modified: float | None  # seconds since 1970


class RemoteFolder:
    """The files below an address. Names are relative to it, with slashes. Safe to use from several threads.

    Every method raises `InputError` where the address cannot be used, after bounded retries.
    """

    def __init__(self, address: str, filesystem: Any, root: str, tries: Retries | None = None) -> None:
        self.address, self._filesystem, self._root = address, filesystem, root.rstrip("/")
        self.retries = tries or retries.DEFAULT

    @classmethod
    def open(cls, address: str) -> RemoteFolder:
        """The folder at an address; nothing is looked up yet. Raises `InputError` without the package that it needs."""
        from fsspec.core import url_to_fs

        scheme = scheme_of(address)
        try:
            options = {"use_listings_cache": False, "skip_instance_cache": True, **_OPTIONS.get(scheme, {})}
            filesystem, root = url_to_fs(address, **options)
        except (ImportError, ValueError, OSError) as error:
            raise unusable(error, address, "read", 1) from None
        if scheme == "s3":
            filesystem.retries = 1
        return cls(address, filesystem, root)

    def below(self, name: str) -> RemoteFolder:
        """A folder in this one."""
        return RemoteFolder(f"{self.address}/{name}", self._filesystem, f"{self._root}/{name}", self.retries)

    def files(self) -> dict[str, RemoteFile]:
        """Every file below the address by name, as the service lists them now; none where there is no such folder.

        Where the address is a file itself, that file, under an empty name.
        """

        def listed() -> dict[str, Any]:
            self._filesystem.invalidate_cache()
            if "file" not in self._filesystem.protocol:
                found: dict[str, Any] = self._request("find", self._root, detail=True, seconds=LISTING_SECONDS)
                # Of an address that is a file fsspec's own `find` knows only the name.
                return {name: info or self._request("info", name) for name, info in found.items()}
            try:
                self._filesystem.info(self._root)
            except FileNotFoundError:  # elsewhere it is a bucket that is missing, which is an error
                return {}
            # By default fsspec leaves out what it could not look into, and half the files of a folder are other data.
            return dict(self._filesystem.find(self._root, detail=True, on_error="raise"))

        found = self._try("list", "", listed)
        return {
            name.removeprefix(self._root).strip("/"): _described(info)
            for name, info in sorted(found.items())
            if info.get("type", "file") == "file" and not name.endswith("/")
        }

    def look(self, name: str) -> RemoteFile | None:
        """A file, None where there is none; asked for by itself, because a listing may be older."""

        def looked_up() -> RemoteFile | None:
            self._filesystem.invalidate_cache()
            try:
                return _described(self._request("info", self._path(name)))
            except FileNotFoundError:
                return None

        return self._try("read", name, looked_up)

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name, asked for as `look` does."""
        return self.look(name) is not None

    def read(self, name: str) -> bytes | None:
        """The contents of a small file, None where there is none."""

        def contents() -> bytes | None:
            self._filesystem.invalidate_cache()
            try:
                found: bytes = self._request("cat_file", self._path(name))
            except FileNotFoundError:
                return None
            return found

        return self._try("read", name, contents)

    def write(self, name: str, contents: bytes) -> None:
        """Write a small file, whole or not at all: as object stores do, and in a folder by renaming."""

        def written() -> None:
            if "file" in self._filesystem.protocol:
                with atomic(Path(self._path(name))) as temporary:
                    temporary.write_bytes(contents)
            else:
                self._request("pipe_file", self._path(name), contents)

        self._try("write", name, written)

    def create(self, name: str, contents: bytes) -> bool:
        """Write a small file that is not there yet; False where one of that name is.

        Two processes that create it at the same time are told apart by services that write on a condition (of S3,
        `If-None-Match: *`). Others let both write it.
        """

        def created() -> bool:
            try:
                if "file" in self._filesystem.protocol:
                    path = Path(self._path(name))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("xb") as handle:
                        handle.write(contents)
                else:
                    self._request("pipe_file", self._path(name), contents, mode="create")
            except OSError as error:
                if not _is_taken(error):
                    raise
                # An earlier try may have arrived, and its answer may not.
                try:
                    return bool(self._request("cat_file", self._path(name)) == contents)
                except FileNotFoundError:
                    return False
            return True

        return self._try("write", name, created)

    def download(self, name: str, to: Path, *, size: int | None = None, expected: int = LARGEST) -> None:
        """Write a file's contents to a local path. Raises `FileNotFoundError` where it is gone.

        `size`: the bytes that it has to have. `expected`: those that it may have, which only bound the time.
        """

        def transferred() -> None:
            self._request("get_file", self._path(name), str(to), seconds=SECONDS + (size or expected) / SLOWEST)
            if size is not None and (got := to.stat().st_size) != size:
                raise HalfObjectError(f"{got:,} bytes where {size:,} are listed")

        self._try("read", name, transferred, absent=True)

    def upload(self, path: Path, name: str) -> None:
        """Write a local file to `name`, whole: its size there is compared with its own."""

        def transferred() -> None:
            size = path.stat().st_size  # of a log that grows, now
            self._request("put_file", str(path), self._path(name), seconds=SECONDS + size / SLOWEST)
            self._filesystem.invalidate_cache()
            if (got := self._request("info", self._path(name))["size"]) != size:
                raise HalfObjectError(f"{got:,} bytes arrived of {size:,}")

        self._try("write", name, transferred)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

        def removed() -> None:
            try:
                self._request("rm_file", self._path(name))
            except FileNotFoundError:
                return

        self._try("delete", name, removed)

    def _request(self, method: str, *arguments: str | bytes, seconds: float | None = None, **options: Any) -> Any:
        """What a method of the file system returns. Raises `TimeoutError` after `seconds`, by default `SECONDS`."""
        limit = SECONDS if seconds is None else seconds
        if self._filesystem.async_impl:  # the others have no such limit
            options["timeout"] = limit
        try:
            return getattr(self._filesystem, method)(*arguments, **options)
        except TimeoutError as error:
            if str(error):
                raise
            raise TimeoutError(f"no answer within {limit:,.0f} seconds") from None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _try(self, doing: str, name: str, action: Callable[[], Result], *, absent: bool = False) -> Result:
        try:
            return self.retries(action)
        except Exception as error:  # clients of object stores have no common class of errors
            if is_of_the_disk(error) or isinstance(error, BUGS) or (absent and isinstance(error, FileNotFoundError)):
                raise
            where = f"{self.address}/{name}" if name else self.address
            raise unusable(error, where, doing, self.retries.tries) from None


def _is_taken(error: OSError) -> bool:
    """Whether a file could not be created because there is one; older clients of S3 have no class for that."""
    return isinstance(error, FileExistsError) or "precondition" in str(error).lower().replace("-", "")


def _described(info: dict[str, Any]) -> RemoteFile:
    date = next((info[key] for key in _DATES if info.get(key) is not None), None)
    modified = date.timestamp() if isinstance(date, datetime) else date if isinstance(date, int | float) else None
    version = next((info[key] for key in _VERSIONS if info.get(key)), date)
    return RemoteFile(int(info["size"]), None if version is None else str(version), modified)


def age(file: RemoteFile, now: Callable[[], float] = time.time) -> float:
    """Seconds since a file was written; 0 where the service does not say when."""
    return 0.0 if file.modified is None else max(0.0, now() - file.modified)
