"""Where a policy comes from, as data: enough to know whether two runs are the same, and to write the model card."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import Any

from scoreonce.pipeline.errors import InputError
from scoreonce.pipeline.methods import Method
from scoreonce.stages import files, models, weights
from scoreonce.stages.config import Run
from scoreonce.stages.layout import Layout

# How a run is carried out and watched; the trained weights do not depend on it.
EXECUTION = {"label", "checkpoint_every", "keep_checkpoints", "verify_pairs", "log_with", "model"}
# Stated with the method, in their resolved form.
METHOD = {"method", "objective", "calibration", "selection"}


def describe(run: Run, method: Method, pairs: int) -> dict[str, Any]:
    """The lineage of the policy that `run` trains; `identity` digests what its weights depend on.

    Raises `InputError` where the cached columns come from another reference than the run file's.
    """
    layout = Layout.of(run)
    prepared = files.read_json(layout.pairs_manifest)
    reads_reference = any(name.startswith("ref_") for name in method.reads)
    stated = {
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
        "data": {"source": run.data.source, "pairs": pairs, "files": prepared["files"], "counts": prepared["counts"]},
    }
    stated["train"]["dtype"] = run.train.dtype or run.reference.dtype
    identity = hashlib.sha256(
        json.dumps({**stated, "policy": stated["policy"]["weights"]}, sort_keys=True).encode()
    ).hexdigest()
    packages = ("scoreonce", "torch", "transformers", "accelerate", "polars", "pyarrow")
    return {
        "format": 1,
        "label": layout.label,
        "identity": identity,
        **stated,
        "versions": {name: version(name) for name in packages},
    }


def policy_is_reference(lineage: dict[str, Any]) -> bool:
    """Whether training starts from the very weights that were scored, in the same dtype."""
    reference = lineage["reference"]
    return reference is not None and (reference["weights"], reference["adapter"], reference["dtype"]) == (
        lineage["policy"]["weights"],
        lineage["policy"]["adapter"],
        lineage["train"]["dtype"],
    )


def _policy(run: Run) -> dict[str, Any]:
    own = run.train.model
    adapter = None if own else run.reference.adapter
    folder = models.folder_of(own or run.reference.model, None if own else run.reference.revision)
    return {
        "model": own or run.reference.model,
        "weights": weights.model_digest(folder),
        "adapter": weights.adapter_digest(models.folder_of(adapter)) if adapter else None,
    }


def _reference(run: Run) -> dict[str, Any]:
    """The scored reference, from its manifest; the run file must mean the same one."""
    layout = Layout.of(run)
    manifest: dict[str, Any] = files.read_json(layout.reference_manifest)
    wanted = {"dtype": run.reference.dtype}
    wanted["weights"] = weights.model_digest(models.folder_of(run.reference.model, run.reference.revision))
    adapter = run.reference.adapter
    wanted["adapter"] = weights.adapter_digest(models.folder_of(adapter)) if adapter else None
    for name, value in wanted.items():
        if manifest[name] != value:
            raise InputError(
                f"The reference columns were scored with another {name} than the run file's reference.",
                found=f"{name} {manifest[name]} in the columns, {value} in the run file's {run.reference.model}",
                where=str(layout.reference_manifest),
                fix="Run `scoreonce score` with this run file.",
            )
    return {name: manifest[name] for name in ("model", "store_key", "weights", "adapter", "dtype", "files")}
