"""The lineage of a policy: it decides whether two runs are the same, and fills the model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from typing import Any

from scoreonce.pipeline.methods import Method
from scoreonce.schemas.columns import COLUMNS
from scoreonce.schemas.manifests import (
    Lineage,
    MethodRecord,
    PairsManifest,
    PolicyStart,
    ReferenceManifest,
    ScoredReference,
    TrainedPairs,
)
from scoreonce.stages.common import manifests
from scoreonce.stages.common.manifests import Difference
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.models import folders
from scoreonce.stages.weights import model_digests

# Settings of execution and logging, on which the trained weights do not depend.
EXECUTION = {"label", "checkpoint_every", "keep_checkpoints", "verify_pairs", "log_with", "model", "full_vocab"}
# Recorded only where they are on, so that a run of before is the same run without them.
OPTIONAL = {
    "share",
    "lora_continue",
    "router_aux_loss",
    "lora_dropout",
    "lora_use_dora",
    "lora_use_rslora",
    "lora_modules_to_save",
    "lora_init",
}
# Recorded under `method`, in resolved form.
METHOD = {"method", "method_file", "objective", "calibration", "selection"}
AT_ONCE = 65_536  # ids that are digested together


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


def reads_reference(method: Method) -> bool:
    """Whether a method reads columns that `score` makes."""
    return any(name.startswith("ref_") for name in method.reads)


def describe(
    run: Run,
    method: Method,
    pair_ids: Sequence[str],
    pairs: PairsManifest,
    reference: ReferenceManifest | None,
    held_out: ReferenceManifest | None = None,
    others: Mapping[str, ReferenceManifest] | None = None,
) -> Lineage:
    """The lineage of the policy that `run` trains on `pair_ids` of the prepared pairs.

    Data and reference are described by their own manifests, as they were made, not by the run file. `reference` is
    None where the method reads none; `held_out` has the scores that held-out figures are computed with, if any are;
    `others` those of the further models that the method reads.
    """
    packages = ("scoreonce", "torch", "transformers", "accelerate", "polars", "pyarrow")
    off = {name for name in OPTIONAL if getattr(run.train, name) == type(run.train).model_fields[name].default}
    parts = {
        "method": _method(method),
        "train": run.train.model_dump(include=set(type(run.train).model_fields) - EXECUTION - METHOD - off)
        | {"dtype": dtype_of(run), **_approximate(run, method)}
        | ({"quantization": run.reference.quantization} if run.reference.quantization else {})
        | ({"evaluate": _deciding_figures(run, held_out)} if held_out and run.evaluate.decides else {})
        | ({"other": {name: _other(scores) for name, scores in others.items()}} if others else {}),
        "policy": _policy(run),
        "reference": reference and _reference(reference),
        "data": TrainedPairs(
            source=str(pairs.config["source"]),
            pairs=len(pair_ids),
            # A selection can come out differently where the audit's own settings changed.
            pair_ids=_digest(pair_ids),
            files=pairs.files,
            counts=pairs.counts,
            config=pairs.config,
        ),
        "versions": {name: version(name) for name in packages},
    }
    unnamed = Lineage(label=RunPaths.of(run).label, identity="0" * 64, **parts)
    return unnamed.model_copy(update={"identity": _identity(unnamed)})


def _approximate(run: Run, method: Method) -> dict[str, str]:
    """What the reference's distributions are approximated by, where a method reads them; else they are the same."""
    needs = {COLUMNS[name].needs for name in method.reads if name in COLUMNS}
    if run.train.full_vocab == "live" or not needs & {"distributions", "hidden states"}:
        return {}
    layer = run.score.layer_of(run.train.full_vocab)
    return {} if layer == "hidden" else {"reference_distributions": layer}


def _deciding_figures(run: Run, scores: ReferenceManifest) -> dict[str, Any]:
    """The held-out figures by which training stops or its best weights are chosen."""
    name = RunPaths.of(run).reference("test").name
    return run.evaluate.model_dump(exclude={"model", "label"}) | {"scores": scores.files[name]}


def _digest(ids: Iterable[str]) -> str:
    """SHA-256 of ids, one a line."""
    digest, names = hashlib.sha256(), iter(ids)
    digest.update(next(names, "").encode())
    while some := list(islice(names, AT_ONCE)):
        digest.update("".join(f"\n{name}" for name in some).encode())
    return digest.hexdigest()


def conflicts(there: Lineage, wanted: Lineage) -> list[Difference]:
    """What another run under the same label did otherwise, as far as trained weights depend on it."""
    then, now = _decisive(there), _decisive(wanted)
    if there.data.config is None:  # format 1 did not keep it; the digests of the prepared files decide
        del now["data"]["config"], then["data"]["config"]
    return manifests.differences("", then, now)


def _decisive(lineage: Lineage) -> dict[str, Any]:
    """What the trained weights depend on; the policy's name does not count, its weights do."""
    tree = lineage.model_dump(mode="json", include={"method", "train", "policy", "reference", "data"})
    del tree["policy"]["model"]
    if tree["reference"] and tree["reference"]["quantization"] is None:
        del tree["reference"]["quantization"]  # as it was before there was one
    return tree


def _identity(lineage: Lineage) -> str:
    """Digest of all that the weights depend on, the same in every format."""
    tree = _decisive(lineage)
    del tree["data"]["config"]  # the digests of the prepared files stand for it
    weights, adapter = tree["policy"]["weights"], tree["policy"]["adapter"]
    tree["policy"] = weights if adapter is None else f"{weights}+{adapter}"
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def policy_is_reference(lineage: Lineage) -> bool:
    """Whether training starts from the very weights that were scored, in the same dtype and as many bits."""
    reference, policy = lineage.reference, lineage.policy
    if reference is None:
        return False
    scored = (reference.weights, reference.adapter, reference.dtype, reference.quantization)
    return scored == (policy.weights, policy.adapter, lineage.train["dtype"], lineage.train.get("quantization"))


def _method(method: Method) -> MethodRecord:
    return MethodRecord(
        name=method.name,
        title=method.title,
        paper=method.paper and f"{method.paper.title}, arXiv {method.paper.arxiv}",
        hyperparameters=method.hyperparameters,
        objective=method.objective.name,
        calibration=[piece.name for piece in method.calibrations],
        selection=method.selection.name,
    )


def _other(scores: ReferenceManifest) -> dict[str, Any]:
    return {"store_key": scores.store_key, "files": scores.files}


def _policy(run: Run) -> PolicyStart:
    start = start_of(run)
    return PolicyStart(
        model=start.model,
        weights=model_digests.model_digest(folders.folder_of(start.model, start.revision)),
        adapter=model_digests.adapter_digest(folders.folder_of(start.adapter)) if start.adapter else None,
    )


def _reference(manifest: ReferenceManifest) -> ScoredReference:
    return ScoredReference(**manifest.model_dump(include=set(ScoredReference.model_fields)))
