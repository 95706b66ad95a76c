"""A LoRA policy as a whole model: base model and adapter in one folder, for tools that load no adapters.

    scoreonce merge configs/x.toml --label lora      needs: scoreonce train

Writes <out>/train/<label>/merged/, a Hugging Face folder with the policy's card and lineage.
"""

from __future__ import annotations

import logging

import torch

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage
from scoreonce.stages.common import manifests
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.results import MergeResult
from scoreonce.stages.config import Run
from scoreonce.stages.models import adapters, folders, four_bits, lineage, loading
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.train import save_policy
from scoreonce.stages.weights import model_digests, policy_manifest

logger = logging.getLogger(__name__)


@at_address(writes="train/{label}")
def merge(run: Run, *, lock_timeout: float | None = None) -> MergeResult:
    """Merge the adapter that `train` wrote into its base model; do nothing where that is done.

    Waits for a training of the same label. Raises `InputError` after `lock_timeout` seconds, where there is no such
    adapter, or where the base model is not the one that it was trained on.
    """
    paths = RunPaths.of(run)
    manifests.read(Lineage, paths.lineage)  # no lock for a run that is not there
    with locked(paths, paths.training, f"the training run {paths.label}", timeout=lock_timeout):
        record = manifests.read(Lineage, paths.lineage)
        _require_adapter(paths)
        if _is_merged(paths, record):
            logger.info("%s: up to date, %s", paths.label, paths.merged)
        else:
            _write(run, paths, record)
    return MergeResult(paths)


def _is_merged(paths: RunPaths, record: Lineage) -> bool:
    """Whether the merged model is that of this adapter, as it was written; said where it is not."""
    if not paths.merged.exists():
        return False
    if policy_manifest.identity_of(paths.merged) != record.identity:
        logger.warning("%s: %s was not merged from this adapter; written again", paths.label, paths.merged)
        return False
    try:
        policy_manifest.require_sound(paths.merged)
    except InputError as error:
        logger.warning("%s: %s (%s); written again", paths.label, error.what, error.where)
        return False
    return True


def _write(run: Run, paths: RunPaths, record: Lineage) -> None:
    start = lineage.start_of(run)
    base = folders.folder_of(start.model, start.revision)
    if model_digests.model_digest(base) != record.policy.weights:
        raise InputError(
            "The adapter was trained on another base model.",
            found=f"other weights in {base} than those of {record.policy.model} at the time",
            where=str(paths.lineage),
            fix="Name that model as reference.model or train.model, as in the run file that trained it: "
            f"{paths.training / 'run.toml'}.",
        )
    dtype, quantization = record.train["dtype"], record.train.get("quantization")
    # Of weights in 4 bits the merged model has the very values that the policy was trained on.
    device = loading.resolve_device(run.compute.device) if quantization else torch.device("cpu")
    model = loading.load_model(
        start.model, dtype=dtype, device=device, revision=start.revision, quantization=quantization
    )
    model = adapters.merged(four_bits.with_all_bits(model).cpu() if quantization else model, paths.policy)
    save_policy.save(paths.merged, model, start=start, data=run.data, lineage=record, inside=paths.out)
    logger.info("%s: merged in %s, model in %s", paths.label, dtype, paths.merged)


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
