"""The models of a run as their configuration describes them, on the meta device: shapes without weights."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from scoreonce.stages.config import Reference, Run
from scoreonce.stages.models import adapters, folders, lineage, loading
from scoreonce.stages.models.empty import without_weights
from scoreonce.stages.models.policy import lora_settings


def reference(given: Reference) -> nn.Module:
    """The reference as `score` loads it; nothing of it is trained. Raises `InputError` where it cannot be built."""
    model = _built(given.model, given.revision, given.dtype)
    return (adapters.shaped(model, folders.folder_of(given.adapter)) if given.adapter else model).requires_grad_(False)


def policy(run: Run) -> nn.Module:
    """The policy as `train` loads it, with its trained parameters. Raises `InputError` where it cannot be built."""
    settings, start = run.train, lineage.start_of(run)
    model = _built(start.model, start.revision, lineage.dtype_of(run))
    whole = not (settings.lora_rank or settings.lora_continue)  # an adapter is merged then
    adapter = folders.folder_of(start.adapter) if start.adapter and not whole else None
    if settings.lora_rank:
        lora = lora_settings(run)
        shaped = adapters.shaped_with_lora_on_top
        model = shaped(model, adapter, lora) if adapter else adapters.with_new_lora(model, lora)
    elif adapter:
        model = adapters.shaped(model, adapter, trains=True)
    if settings.gradient_checkpointing:
        loading.recompute_activations(model, offload=run.compute.offload_activations)
    return model


def _built(name: str, revision: str | None, dtype: str) -> PreTrainedModel:
    return without_weights(folders.folder_of(name, revision, weights=False), getattr(torch, dtype))
