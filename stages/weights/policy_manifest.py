"""The manifest in the folder of a trained model: a copy of the folder can be checked wherever it is."""

from __future__ import annotations

from pathlib import Path

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import PolicyManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.digests import file_digests
from scoreonce.stages.common.files import sha256

NAME = "scoreonce.json"
# Nothing is computed from these, and people edit them.
NOT_VOUCHED = {NAME, "README.md", "generation_config.json"}


def write(folder: Path, identity: str) -> None:
    """Write the manifest of the model in a folder; `identity` is that of its lineage."""
    written = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in NOT_VOUCHED)
    digests = {path.name: sha256(path) for path in written}
    manifests.write(folder / NAME, PolicyManifest(identity=identity, files=digests))


def require_sound(folder: Path) -> None:
    """Check a model that `train` wrote against its manifest; any other model is left alone.

    A file with the size and modification time of an earlier check is believed, unless `--rehash` is given. Raises
    `InputError` where one is not what was written.
    """
    path = folder / NAME
    if not path.exists():
        return
    changed = manifests.file_changes(manifests.read(PolicyManifest, path), folder, digests=file_digests)
    if changed:
        raise InputError(
            "A file of the trained model is not what `scoreonce train` wrote.",
            found=changed[0].text("written"),
            where=str(folder / changed[0].key),
            fix="Run `scoreonce train` with its run file and label, which writes the model again, or copy the folder "
            f"again. If you changed the model yourself, delete {NAME}.",
        )


def identity_of(folder: Path) -> str | None:
    """The identity of the lineage of a trained model; None where its manifest is absent or damaged."""
    found = manifests.readable(PolicyManifest, folder / NAME)
    return None if found is None else found.identity
