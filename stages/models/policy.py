"""The policy that training starts from: all weights, or LoRA matrices, with the reference's adapter or without."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Run
from scoreonce.stages.models import adapters, lineage, loading


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
    )
    if whole:
        return model
    adapter = loading.folder_of(start.adapter) if start.adapter else None
    if settings.lora_rank:
        model = with_lora(model, run, adapter)
    elif adapter:
        model = adapters.applied(model, adapter, trains=True)
    return model.eval().to(device)


def with_lora(model: PreTrainedModel, run: Run, adapter: Path | None = None) -> PreTrainedModel:
    """The model with new LoRA matrices as the run file describes them, on top of an adapter if there is one."""
    lora = lora_settings(run)
    return adapters.with_lora_on_top(model, adapter, *lora) if adapter else adapters.with_new_lora(model, *lora)


def lora_settings(run: Run) -> tuple[int, float, list[str]]:
    """Rank, alpha and targets of the new LoRA matrices of a run with `lora_rank`."""
    settings = run.train
    assert settings.lora_rank
    return settings.lora_rank, settings.lora_alpha or 2.0 * settings.lora_rank, settings.lora_targets


def require_lora_settings(run: Run) -> None:
    """Raise `InputError` where `lora_continue` has nothing to continue, or contradicts `lora_rank`."""
    settings = run.train
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
