"""What the pairs of a run were made from, and whether they still are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scoreonce.stages.common.files import read_json, sha256
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Data

# How `prepare` makes ids and identities. Raise it where the same input would give other pairs.
FORMAT = 1


def origin(data: Data, inputs: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the pairs, as the part of the manifest that must agree for nothing to be done."""
    config = data.model_dump(mode="json", exclude={"workers", "tokenizer"})
    return {"format": FORMAT, "inputs": dict(inputs), "config": config, "tokenizer": dict(tokenizer)}


def up_to_date(paths: RunPaths, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of the pairs, where they were made from what is `wanted` and every file is as it was written."""
    try:
        manifest: dict[str, Any] = read_json(paths.pairs_manifest)
        same = all(_content(manifest[key]) == _content(value) for key, value in wanted.items())
        folder = paths.pairs_manifest.parent
        whole = same and all(sha256(folder / name) == digest for name, digest in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError):  # absent, or of another version: make the pairs anew
        return None
    return manifest if whole else None


def _content(value: Any) -> Any:
    """A value without modification times and names: a file that was touched is still the same file."""
    if isinstance(value, dict):
        return {key: _content(item) for key, item in value.items() if key not in ("mtime_ns", "name")}
    return value
