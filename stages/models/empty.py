"""Models as their configuration describes them, on the meta device: shapes without weights."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import init_empty_weights
from transformers import GenerationConfig, PreTrainedModel

from scoreonce.schemas.errors import InputError, first_line
from scoreonce.stages.models import folders, loading, multimodal


def without_weights(folder: Path, dtype: torch.dtype, *, buffers: bool = False) -> PreTrainedModel:
    """The model of a folder as `loading.load_model` gives it, its parameters on the meta device.

    `buffers` are computed, as rotary frequencies are, or on the meta device too. Raises `InputError` where the model
    cannot be built from its configuration.
    """
    config = loading.config_without_dropout(folder)
    try:
        with init_empty_weights(include_buffers=not buffers):
            model: PreTrainedModel = multimodal.auto_class(config).from_config(
                config,
                dtype=dtype,
                attn_implementation=loading.attention_for(config),
                trust_remote_code=folders.trust_remote_code,
            )
        model.tie_weights()  # each parameter was made anew on the meta device
        multimodal.freeze_other_parts(model)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    except InputError:
        raise
    except Exception as error:  # of any kind, as when its weights are loaded
        raise InputError(
            "The model cannot be built from its configuration.",
            found=first_line(error),
            where=str(folder),
            fix="Check that the folder's config.json is that of a causal language model.",
        ) from None
    return model.eval()
