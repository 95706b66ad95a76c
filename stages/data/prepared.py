"""What `prepare` left behind, checked before another stage builds on it."""

from __future__ import annotations

from typing import Any

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import read_json
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.models.digests import file_digests

_FIX = "Run `scoreonce prepare` with the same run file."


def require_prepared(paths: RunPaths) -> dict[str, Any]:
    """The manifest of the prepared pairs, after finding each of its files as it says.

    Raises `InputError`, naming `scoreonce prepare`, where they are absent, unfinished or changed.
    """
    manifest = _manifest(paths)
    files = [paths.pairs_manifest.parent / name for name in manifest["files"]]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise InputError(
            "The prepared pairs are incomplete.",
            found=f"no {', '.join(missing)}",
            where=str(paths.pairs_manifest.parent),
            fix=_FIX,
        )
    for path, digest in zip(files, file_digests(files), strict=True):
        if digest != manifest["files"][path.name]:
            raise InputError(
                "The prepared pairs are not what `scoreonce prepare` wrote.",
                where=str(path),
                found=f"SHA-256 {digest[:16]}… where the manifest says {manifest['files'][path.name][:16]}…",
                fix=_FIX,
            )
    return manifest


def _manifest(paths: RunPaths) -> dict[str, Any]:
    try:
        manifest = read_json(paths.pairs_manifest)
    except FileNotFoundError:
        raise InputError(
            "The pairs are not prepared.",
            found=f"no file {paths.pairs_manifest}",
            where="`out` of the run file",
            fix=_FIX,
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            "The manifest of the prepared pairs cannot be read.",
            found=str(error),
            where=str(paths.pairs_manifest),
            fix=_FIX,
        ) from None
    match manifest:
        case {"format": 1, "files": dict()}:
            return manifest
    raise InputError(
        "The manifest of the prepared pairs is of another kind.",
        found="no format 1 with its files",
        where=str(paths.pairs_manifest),
        fix=_FIX,
    )
