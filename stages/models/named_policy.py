"""Which policy is evaluated or sampled, under which label, and what `train` recorded of it."""

from __future__ import annotations

from pathlib import Path

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage
from scoreonce.schemas.names import name_of
from scoreonce.stages.common import manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Reference, Run
from scoreonce.stages.models.lineage import start_of


def policy_of(run: Run, paths: RunPaths, model: str | None, *, to: str = "evaluate") -> Reference:
    """The model to score, described as a reference is, because the same code scores both.

    `model` is a folder or Hub name; None means what `train` wrote. Raises `InputError`, which says what it was wanted
    `to`, where that wrote nothing.
    """
    if model is None and not paths.policy.is_dir():
        raise InputError(
            f"There is no trained policy to {to}.",
            found=f"no folder {paths.policy}",
            where=f"label {paths.label}",
            fix="Run `scoreonce train` with this run file and label, or name a model with --model.",
        )
    name = model or str(paths.policy)
    # The reference itself keeps its revision and adapter; any other model is what its own folder says.
    if name == run.reference.model:
        return run.reference
    trained = Path(name).resolve() in (paths.policy.resolve(), paths.merged.resolve())
    dtype = (run.train.dtype if trained else None) or run.reference.dtype
    if not (Path(name) / "adapter_config.json").is_file():
        return Reference(model=name, dtype=dtype)
    base = start_of(run)  # LoRA was trained on it
    return run.reference.model_copy(
        update={"model": base.model, "revision": base.revision, "adapter": name, "dtype": dtype}
    )


def label_of(paths: RunPaths, policy: Reference) -> str:
    """The training label for a policy that `train` wrote in this run, otherwise made of the model's last name."""
    path = Path(policy.adapter or policy.model).resolve()
    return path.parent.name if path.parent.parent == (paths.out / "train").resolve() else name_of(path.name)


def require_own_label(results: RunPaths, policy: Reference, *, keys: str) -> None:
    """Raise `InputError` where results would stand under the label of a training run that did not make the policy.

    `keys` say where a label is given.
    """
    folder = Path(policy.adapter or policy.model).resolve()
    if results.training.is_dir() and folder not in (results.policy.resolve(), results.merged.resolve()):
        raise InputError(
            "A training run has this label, and did not make the model whose results would stand under it.",
            found=f"label {results.label}, model {policy.adapter or policy.model}",
            where=str(results.training),
            fix=f"Give the results a label of their own: {keys}.",
        )


def lineage_of(policy: Reference) -> Lineage | None:
    """What `train` recorded beside the policy's folder; None for a model from elsewhere.

    Raises `InputError` where that cannot be read.
    """
    path = Path(policy.adapter or policy.model).parent / "lineage.json"
    return manifests.read(Lineage, path) if path.is_file() else None
