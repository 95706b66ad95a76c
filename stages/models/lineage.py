"""The lineage of a policy as data: it decides whether two runs are the same, and fills the model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scoreonce.pipeline.methods import Method
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import files
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.models import digests, loading

# Settings of execution and logging, on which the trained weights do not depend.
EXECUTION = {"label", "checkpoint_every", "keep_checkpoints", "verify_pairs", "log_with", "model", "full_vocab"}
# Recorded under `method`, in resolved form.
METHOD = {"method", "method_file", "objective", "calibration", "selection"}


@dataclass(frozen=True)
class Start:
    """The model that training starts from: folder or Hub name, revision and adapter."""

    model: str
    revision: str | None
    adapter: str | None


def start_of(run: Run) -> Start:
    """`train.model` if it is set, otherwise the reference."""
    reference = run.reference
    if run.train.model:
        return Start(run.train.model, None, None)
    return Start(reference.model, reference.revision, reference.adapter)


def dtype_of(run: Run) -> str:
    """The dtype of the policy's forward and backward pass."""
    return run.train.dtype or run.reference.dtype


def starts_from_reference(run: Run) -> bool:
    """Whether policy and reference are the same model in the same dtype, by name."""
    reference = run.reference
    named = Start(reference.model, reference.revision, reference.adapter)
    return start_of(run) == named and dtype_of(run) == reference.dtype


def describe(run: Run, method: Method, pair_ids: Sequence[str]) -> dict[str, Any]:
    """The lineage of the policy that `run` trains on `pair_ids`. `identity` is a digest of what its weights depend on.

    Raises `InputError` if the cached columns come from a reference other than the run file's.
    """
    paths = RunPaths.of(run)
    prepared = files.read_json(paths.pairs_manifest)
    reads_reference = any(name.startswith("ref_") for name in method.reads)
    stated: dict[str, Any] = {
        "method": {
            "name": method.name,
            "title": method.title,
            "paper": method.paper and f"{method.paper.title}, arXiv {method.paper.arxiv}",
            "hyperparameters": method.hyperparameters,
            "objective": method.objective.name,
            "calibration": [piece.name for piece in method.calibrations],
            "selection": method.selection.name,
        },
        "train": run.train.model_dump(include=set(type(run.train).model_fields) - EXECUTION - METHOD),
        "policy": _policy(run),
        "reference": _reference(run) if reads_reference else None,
        "data": {
            "source": run.data.source,
            "pairs": len(pair_ids),
            # The filter's result can change with the settings of the audit.
            "pair_ids": hashlib.sha256("\n".join(pair_ids).encode()).hexdigest(),
            "files": prepared["files"],
            "counts": prepared["counts"],
        },
    }
    stated["train"]["dtype"] = dtype_of(run)
    identity = hashlib.sha256(
        json.dumps({**stated, "policy": stated["policy"]["weights"]}, sort_keys=True).encode()
    ).hexdigest()
    packages = ("scoreonce", "torch", "transformers", "accelerate", "polars", "pyarrow")
    return {
        "format": 1,
        "label": paths.label,
        "identity": identity,
        **stated,
        "versions": {name: version(name) for name in packages},
    }


def policy_is_reference(lineage: dict[str, Any]) -> bool:
    """Whether training starts from the weights that were scored, in the same dtype."""
    reference = lineage["reference"]
    return reference is not None and (reference["weights"], reference["adapter"], reference["dtype"]) == (
        lineage["policy"]["weights"],
        lineage["policy"]["adapter"],
        lineage["train"]["dtype"],
    )


def _policy(run: Run) -> dict[str, Any]:
    start = start_of(run)
    return {"model": start.model, **_digests(start.model, start.revision, start.adapter)}


def _digests(model: str, revision: str | None, adapter: str | None) -> dict[str, str | None]:
    return {
        "weights": digests.model_digest(loading.folder_of(model, revision)),
        "adapter": digests.adapter_digest(loading.folder_of(adapter)) if adapter else None,
    }


def _reference(run: Run) -> dict[str, Any]:
    """The scored reference, from its manifest, after comparing it with the run file's."""
    paths = RunPaths.of(run)
    manifest: dict[str, Any] = files.read_json(paths.reference_manifest)
    reference = run.reference
    wanted: dict[str, Any] = {"dtype": reference.dtype}
    if Path(reference.model).is_dir():
        wanted |= _digests(reference.model, reference.revision, reference.adapter)
    else:  # compare names only: training must not download a reference to hash its weights
        wanted["model"] = reference.model
    for name, value in wanted.items():
        if manifest[name] != value:
            raise InputError(
                f"The reference columns were scored with another {name} than the run file names.",
                found=f"{name} {manifest[name]} in the columns, {value} in the run file's {run.reference.model}",
                where=str(paths.reference_manifest),
                fix="Run `scoreonce score` with this run file.",
            )
    return {name: manifest[name] for name in ("model", "store_key", "weights", "adapter", "dtype", "files")}
