"""The policy that training starts from: all weights, or LoRA matrices, with the reference's adapter or without."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Run, Train
from scoreonce.stages.models import adapters, folders, lineage, loading
from scoreonce.stages.models.lora import Lora, require_start


def load(run: Run, device: torch.device) -> PreTrainedModel:
    """The model that `train` starts from, on `device`, with its trained parameters.

    All weights, a start's adapter merged into them; with `lora_rank` new LoRA matrices, on top of a start's adapter if
    there is one; with `lora_continue` the start's adapter itself. Raises `InputError` where one of these cannot be
    loaded, or the adapter is of a kind that no LoRA can be put on.
    """
    settings, start = run.train, lineage.start_of(run)
    whole = not (settings.lora_rank or settings.lora_continue)
    model = loading.load_model(
        start.model,
        dtype=lineage.dtype_of(run),
        device=device,
        revision=start.revision,
        adapter=start.adapter if whole else None,
        merge=True,
        quantization=run.reference.quantization,
    )
    if whole:
        return model
    adapter = folders.folder_of(start.adapter) if start.adapter else None
    if settings.lora_rank:
        model = with_lora(model, run, adapter)
    elif adapter:
        model = adapters.applied(model, adapter, trains=True)
    return model.eval().to(device)


def with_lora(model: PreTrainedModel, run: Run, adapter: Path | None = None) -> PreTrainedModel:
    """The model with new LoRA matrices as the run file describes them, on top of an adapter if there is one."""
    lora = lora_settings(run)
    return adapters.with_lora_on_top(model, adapter, lora) if adapter else adapters.with_new_lora(model, lora)


def lora_settings(run: Run) -> Lora:
    """The new LoRA matrices of a run with `lora_rank`."""
    settings = run.train
    assert settings.lora_rank
    return Lora(
        settings.lora_rank,
        settings.lora_alpha or 2.0 * settings.lora_rank,
        tuple(settings.lora_targets),
        settings.lora_dropout,
        settings.lora_use_dora,
        settings.lora_use_rslora,
        tuple(settings.lora_modules_to_save),
        settings.lora_init,
    )


def require_lora_settings(run: Run) -> None:
    """Raise `InputError` where settings of LoRA contradict each other, or leave the policy not at the reference."""
    settings = run.train
    require_start(settings.lora_init)
    _require_trainable(run)
    _require_rank(run)
    if not settings.lora_continue:
        return
    if settings.lora_rank:
        raise InputError(
            "An adapter is either trained on or new.",
            found=f"lora_continue = true and lora_rank = {settings.lora_rank}",
            where="[train] of the run file",
            fix="Leave out lora_rank to train the reference's adapter on, or lora_continue to put a new one on top.",
        )
    if not lineage.start_of(run).adapter:
        raise InputError(
            "There is no adapter to train on.",
            found="lora_continue = true, and training starts from a model without an adapter",
            where="[train] of the run file",
            fix="Set reference.adapter and leave out train.model, or train a new adapter with train.lora_rank.",
        )


def require_activations_to_offload(run: Run, device: str) -> None:
    """Raise `InputError` where the run offloads activations that are not kept, or not on a GPU; `device`: its type."""
    if not run.compute.offload_activations:
        return
    if not run.train.gradient_checkpointing:
        raise InputError(
            "Only what gradient checkpointing keeps of activations is offloaded.",
            found="compute.offload_activations = true, train.gradient_checkpointing = false",
            where="compute.offload_activations",
            fix="Set train.gradient_checkpointing = true, or compute.offload_activations = false.",
        )
    if device == "cpu":
        raise InputError(
            "Offloading takes activations out of a GPU's memory, and there is no GPU.",
            found=f"compute.offload_activations = true, compute.device = {run.compute.device!r}, no CUDA device in use",
            where="compute.offload_activations",
            fix="Set compute.offload_activations = false.",
        )


def _require_rank(run: Run) -> None:
    """Raise `InputError` for settings of new matrices where there are none: they would do nothing."""
    settings, default = run.train, Train()
    keys = ("lora_dropout", "lora_use_dora", "lora_use_rslora", "lora_modules_to_save", "lora_init")
    given = [key for key in keys if vars(settings)[key] != vars(default)[key]]
    if given and not settings.lora_rank:
        raise InputError(
            "These settings are of new LoRA matrices, and there are none.",
            found=f"{', '.join(given)}, and no lora_rank",
            where="[train] of the run file",
            fix="Add lora_rank = 16 for new matrices, or leave these settings out.",
        )


def _require_trainable(run: Run) -> None:
    """Raise `InputError` where all weights would be trained, and they are in 4 bits."""
    settings, quantization = run.train, run.reference.quantization
    if quantization and not (settings.lora_rank or settings.lora_continue):
        raise InputError(
            "Weights in 4 bits cannot be trained.",
            found=f"reference.quantization = {quantization!r}, and neither lora_rank nor lora_continue",
            where="[train] of the run file",
            fix="Add lora_rank = 16 (QLoRA), or leave out reference.quantization and score again.",
        )
