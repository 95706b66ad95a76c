"""Addresses of files that are not on the local disk, such as s3://bucket/pairs.jsonl: which may be given, how shown."""

from __future__ import annotations

import re

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "file": "fsspec"}  # what reads each
EXTRAS = {"s3": "s3", "gs": "gcs"}  # of scoreonce, which install it
# A password may have slashes in it, which no address may: `user:pass/word@`. A port is not a password.
_USER = re.compile(r"(://)(?:[^\s/'\"]*@|[^\s/'\"@:]*:(?!\d+(?:/|$))[^\s'\"]*@)")
_QUERY = re.compile(r"(://[^\s?'\"]*\?)[^\s'\"]+")


def is_address(text: str) -> bool:
    """Whether a text is an address and no path or name."""
    return "://" in text


def scheme_of(address: str) -> str:
    """What stands before `://`."""
    return address.partition("://")[0].lower()


def require_address(text: str) -> str:
    """The address, without a slash at its end. Raises `ValueError` for one that is not read, or holds credentials."""
    scheme, _, rest = text.partition("://")
    known = ", ".join(f"{each}://" for each in PACKAGES)
    if scheme not in PACKAGES or "::" in rest:
        raise ValueError(f"it is an address of a kind that is not read; these are: {known}")
    if any(sign in rest.partition("/")[0] for sign in "@:") or "?" in rest:
        raise ValueError(
            "it may hold credentials, and a run file is copied beside its results: leave out what stands before @ or "
            "behind : or ?, and give credentials in the environment or in the provider's own files"
        )
    if scheme == "file" and not rest.startswith("/"):
        raise ValueError("it is not file:// and the whole path, from its first slash on: file:///data/pairs.jsonl")
    if not rest.strip("/"):
        raise ValueError("it names no bucket or folder")
    return text.rstrip("/")


def without_credentials(text: str) -> str:
    """A text in which addresses have neither user nor query: either may hold a password or a signature."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text))
