"""The reference scores: their manifest, whether their files are whole, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scoreonce.schemas.columns import COLUMNS
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import ReferenceManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Reference, Run
from scoreonce.stages.weights import model_digests

# Nats per token, mean over a completion. Batch shape alone moves a float32 sum by 1e-4, a bfloat16 one by up to 2.5.
CACHE_TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}
# What imported scores have of a pair.
_IMPORTED = {"ref_chosen_logps", "ref_rejected_logps", "ref_margin"}


def read_reference(paths: RunPaths) -> ReferenceManifest:
    """The manifest of the scores that are there, whatever a run file asks for, after checking each of their files.

    Raises `InputError` where they are absent, unfinished or damaged.
    """
    manifest = manifests.read(ReferenceManifest, paths.reference_manifest)
    manifests.require_files(manifest, paths.reference_manifest.parent)
    return manifest


def require_other(run: Run, name: str, reader: str) -> ReferenceManifest:
    """The manifest of a further model's scores, which `reader` needs, as `require_reference` checks them.

    Raises `InputError` where the run file names no such model, and where its scores are absent, damaged, another
    model's, or of other pairs.
    """
    if name not in run.reference.other:
        raise InputError(
            f"{reader} reads a further scored model, and the run file names none of that name.",
            found=f"[reference.other] has {', '.join(run.reference.other) or 'none'}",
            where=f"[reference.other.{name}]",
            fix=f"Name its model, [reference.other.{name}] with `model = ...`, and run `scoreonce score`.",
        )
    manifest = require_reference(run, name)
    require_scores_of_pairs(manifest, RunPaths.of(run).of_other(name))
    return manifest


def require_reference(run: Run, other: str | None = None) -> ReferenceManifest:
    """The manifest of the scores, after checking their files and that the run file names the model that made them.

    `other` is the name of a further model, whose scores are asked for in the place of the reference's.

    Weights are compared where they are in a local folder; a Hub model by its name, so that none is downloaded only to
    be compared: scores are good without their model. Raises `InputError` where the scores are absent, damaged, or
    another model's.
    """
    paths, reference = RunPaths.of(run), run.reference
    if other is not None:
        paths, reference = paths.of_other(other), reference.other[other]
    manifest = read_reference(paths)
    wanted = _wanted(reference)
    scored = {name: value for name, value in manifest.model_dump().items() if name in wanted}
    changed = manifests.differences("reference", scored, wanted)
    if changed:
        raise InputError(
            "The pairs were scored under another reference than the run file's.",
            found=manifests.listed(changed, "scored"),
            where=str(paths.reference_manifest),
            fix=f"{manifests.command(ReferenceManifest)} It names {reference.model} as the reference.",
        )
    return manifest


def require_scores_of_pairs(manifest: ReferenceManifest, paths: RunPaths) -> None:
    """Check that the scores were made from the pairs that are there. Raises `InputError` where they were not."""
    now = sha256(paths.pairs_manifest)
    if manifest.pairs_manifest_sha256 != now:
        changed = manifests.Difference("pairs/manifest.json", manifest.pairs_manifest_sha256, now)
        raise InputError(
            "The reference scores are those of other pairs.",
            found=changed.text("scored"),
            where=str(paths.reference_manifest),
            fix=manifests.command(ReferenceManifest),
        )


def require_store(manifest: ReferenceManifest, what: str, otherwise: str) -> None:
    """Raise `InputError` where the scores were imported: there is no store then, which `what` reads."""
    if manifest.imported is not None:
        raise InputError(
            f"{what} needs more of the reference than was imported.",
            found=f"sums of pairs alone, imported from {manifest.imported.source}",
            where=what,
            fix=f"Run `scoreonce score`, which runs the reference and takes their place. {otherwise}",
        )


def require_columns(manifest: ReferenceManifest, method: str, reads: Iterable[str], *, live: bool) -> None:
    """Raise `InputError` where a method reads more of the reference than was imported.

    `live`: the reference's next-token distributions are not read from the store but made by the model.
    """
    kept = {"token log-probs"} if live else {"token log-probs", "distributions", "hidden states"}
    beyond = sorted(
        name
        for name in reads
        if (name.startswith("ref_") and name not in _IMPORTED) or (name in COLUMNS and COLUMNS[name].needs in kept)
    )
    if beyond:
        require_store(
            manifest, f"{method}, which reads {', '.join(beyond)},", "Or use a method that reads sums, as dpo."
        )


def _wanted(reference: Reference) -> dict[str, str | None]:
    if not Path(reference.model).is_dir():
        return {"dtype": reference.dtype, "quantization": reference.quantization, "model": reference.model}
    from scoreonce.stages.models import folders  # torch, which an audit does without

    adapter = model_digests.adapter_digest(folders.folder_of(reference.adapter)) if reference.adapter else None
    return {
        "dtype": reference.dtype,
        "quantization": reference.quantization,
        "weights": model_digests.model_digest(Path(reference.model)),
        "adapter": adapter,
    }
