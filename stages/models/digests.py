"""The identity of a model: a digest of its files' contents. A copy under another name or path is the same model.

Each file is hashed once; the digest is remembered by path, size and modification time. The Hub's cache already names
large files by their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import read_json, sha256, write_json
from scoreonce.stages.common.progress import progress

# Keys of a config that describe origin or speed and do not change the outputs.
PROVENANCE_KEYS = frozenset(
    {
        "transformers_version",
        "_name_or_path",
        "_commit_hash",
        "dtype",
        "torch_dtype",
        "use_cache",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "peft_version",
        "auto_mapping",
    }
)
# In the order in which transformers and PEFT look for them.
MODEL_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# A file modified this recently could change again within the same clock tick, without a new modification time.
_SETTLED_SECONDS = 2.0
_SHOW_PROGRESS_BYTES = 2 * 1024**3


def model_digest(folder: Path) -> str:
    """Digest of a model folder, 64 hex digits: its weight files, and its config without provenance.

    Raises `InputError` if the folder has no weights, no config, or lacks a file that its index names.
    """
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise InputError(
            "This is an adapter, not a whole model.",
            found="adapter_config.json without config.json",
            where=str(folder),
            fix="Set `model` to the base model and `adapter` to this folder.",
        )
    return _digest(_config(folder / "config.json"), _weight_files(folder, MODEL_FILES))


def adapter_digest(folder: Path) -> str:
    """Digest of a PEFT adapter, 64 hex digits. Raises `InputError` as `model_digest` does."""
    config = _config(folder / "adapter_config.json")
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()  # PEFT saves a set, in arbitrary order
    return _digest(config, _weight_files(folder, ADAPTER_FILES))


def file_digests(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file; remembered digests are reused if path, size and modification time match."""
    remembered = _load_memo()
    known = [_blob_name(path) or _lookup(remembered, path) for path in paths]
    unknown = [path for path, digest in zip(paths, known, strict=True) if digest is None]
    fresh = dict(zip(unknown, _hash(unknown), strict=True))
    _update_memo(fresh)
    return [digest or fresh[path] for path, digest in zip(paths, known, strict=True)]


def memo_path() -> Path:
    """The file of remembered digests, in $SCOREONCE_CACHE, $XDG_CACHE_HOME/scoreonce or ~/.cache/scoreonce."""
    own = os.environ.get("SCOREONCE_CACHE")
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(own) if own else Path(user) / "scoreonce") / "digests.json"


def _digest(config: Any, files: list[Path]) -> str:
    # Sorted by digest, because file names do not matter: a shard contains its tensors' names.
    whole = json.dumps([config, sorted(file_digests(files))], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(whole.encode()).hexdigest()


def _config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = _without_provenance(read_json(path))
        return config
    except FileNotFoundError:
        raise InputError(
            "The model folder has no configuration.",
            found=f"no {path.name}",
            where=str(path.parent),
            fix="Give a folder written by `save_pretrained`, or a Hub name.",
        ) from None
    except ValueError as error:
        raise InputError(
            "The model's configuration is not valid JSON.",
            found=str(error),
            where=str(path),
            fix="Restore the file, or save the model again.",
        ) from None


def _without_provenance(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_provenance(inner) for key, inner in value.items() if key not in PROVENANCE_KEYS}
    return [_without_provenance(inner) for inner in value] if isinstance(value, list) else value


def _weight_files(folder: Path, names: Iterable[str]) -> list[Path]:
    first = next((folder / name for name in names if (folder / name).is_file()), None)
    if first is None:
        raise InputError(
            "The model folder has no weights.",
            found=f"none of {', '.join(names)}",
            where=str(folder),
            fix="Give a folder written by `save_pretrained`, or a Hub name.",
        )
    if first.suffix != ".json":
        return [first]
    try:
        files = sorted({folder / name for name in read_json(first)["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            "The index of the model's shards cannot be read.",
            found=repr(error),
            where=str(first),
            fix="Download or save the model again.",
        ) from None
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise InputError(
            "The model folder is incomplete.",
            found=f"no {', '.join(missing)}",
            where=str(folder),
            fix=f"Download or save the model again: {first.name} lists these files.",
        )
    return files


def _hash(paths: list[Path]) -> list[str]:
    large = sum(path.stat().st_size for path in paths) > _SHOW_PROGRESS_BYTES
    with (
        ThreadPoolExecutor(max_workers=os.cpu_count()) as pool,
        progress(len(paths), "files", "hashing weights", enabled=large) as bar,
    ):
        digests = []
        for digest in pool.map(sha256, paths):
            digests.append(digest)
            bar.update(1)
    return digests


def _blob_name(path: Path) -> str | None:
    """The SHA-256 in the name of a Hub cache blob, if `path` links to one. Small files have shorter git hashes."""
    if not path.is_symlink():
        return None
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name) else None


def _size_and_mtime(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _lookup(remembered: dict[str, Any], path: Path) -> str | None:
    match remembered.get(str(path.resolve())):
        case {"sha256": str(digest), **stamp} if stamp == _size_and_mtime(path):
            return digest
    return None


def _load_memo() -> dict[str, Any]:
    """The remembered digests; none if the file is absent or damaged, which only costs hashing the weights again."""
    try:
        memo = read_json(memo_path())
    except (OSError, ValueError):
        return {}
    return memo if isinstance(memo, dict) else {}


def _update_memo(fresh: dict[Path, str]) -> None:
    settled = time.time() - _SETTLED_SECONDS
    entries = {
        str(path.resolve()): {**_size_and_mtime(path), "sha256": digest}
        for path, digest in fresh.items()
        if path.stat().st_mtime < settled
    }
    if not entries:
        return
    with suppress(OSError):  # a read-only home directory must not stop the run
        memo_path().parent.mkdir(parents=True, exist_ok=True)
        with FileLock(memo_path().with_suffix(".lock")):
            write_json(memo_path(), _load_memo() | entries)
