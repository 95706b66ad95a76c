"""A LoRA policy as a whole model: base model and adapter in one folder, for tools that load no adapters.

    scoreonce merge configs/x.toml --label lora      needs: scoreonce train

Writes <out>/train/<label>/merged/, a Hugging Face folder with the policy's card and lineage.
"""

from __future__ import annotations

import logging

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage
from scoreonce.stages.common import manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.results import MergeResult
from scoreonce.stages.config import Run
from scoreonce.stages.models import lineage, loading, model_digests
from scoreonce.stages.train import save_policy

logger = logging.getLogger(__name__)


def merge(run: Run) -> MergeResult:
    """Merge the adapter that `train` wrote into its base model; do nothing where that is done.

    Raises `InputError` where there is no such adapter, or the base model is not the one that it was trained on.
    """
    paths = RunPaths.of(run)
    record = manifests.read(Lineage, paths.lineage)
    _require_adapter(paths)
    if paths.merged.is_dir():
        logger.info("%s: up to date, %s", paths.label, paths.merged)
        return MergeResult(paths)
    start = lineage.start_of(run)
    base = loading.folder_of(start.model, start.revision)
    if model_digests.model_digest(base) != record.policy.weights:
        raise InputError(
            "The adapter was trained on another base model.",
            found=f"other weights in {base} than those of {record.policy.model} at the time",
            where=str(paths.lineage),
            fix="Name that model as reference.model or train.model, as in the run file that trained it: "
            f"{paths.training / 'run.toml'}.",
        )
    dtype = record.train["dtype"]
    model = loading.load_model(
        start.model, dtype=dtype, device="cpu", revision=start.revision, adapter=str(paths.policy), merge=True
    )
    save_policy.save(paths.merged, model, start=start, tokenizer=run.data.tokenizer, lineage=record, inside=paths.out)
    logger.info("%s: merged in %s, model in %s", paths.label, dtype, paths.merged)
    return MergeResult(paths)


def _require_adapter(paths: RunPaths) -> None:
    if not paths.policy.is_dir():
        raise InputError(
            "There is no trained policy to merge.",
            found=f"no folder {paths.policy}",
            where=f"label {paths.label}",
            fix="Run `scoreonce train` with this run file and label first.",
        )
    if not (paths.policy / "adapter_config.json").is_file():
        raise InputError(
            "There is nothing to merge: the policy is a whole model.",
            found=f"no adapter_config.json in {paths.policy}",
            where=f"label {paths.label}",
            fix="Use that folder as it is. Only train.lora_rank and train.lora_continue make adapters.",
        )
