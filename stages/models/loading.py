"""Load models by folder or Hub name, with errors that say what to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.activation_offload import ActivationOffload
from scoreonce.schemas.errors import InputError, first_line
from scoreonce.stages.models import adapters, folders, four_bits, multimodal
from scoreonce.stages.weights.finite import require_finite
from scoreonce.stages.weights.loading_report import require_whole, unlogged

if TYPE_CHECKING:
    from scoreonce.stages.config import Quantization, Reference

disable_progress_bar()  # a stage shows only its own bar

# oneDNN and PyTorch's layer above it cache compiled matrix products by shape, 1,024 each by default: 600 MiB after some
# thousand pairs. Sizes are rounded up (`prompt_rows.CPU_MULTIPLE`), so fewer suffice. 64 train as fast as 128 with
# 50 MiB less, and score as fast in float32 and 5 % slower in bfloat16; 32 are slower everywhere.
for capacity in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(capacity, "64")


def load_model(
    name: str,
    *,
    dtype: str,
    device: torch.device | str,
    revision: str | None = None,
    adapter: str | None = None,
    merge: bool = False,
    quantization: Quantization | None = None,
) -> PreTrainedModel:
    """A causal language model in evaluation mode on `device`, with its weights in `dtype` and an adapter if given.

    With `quantization` its linear layers are in 4 bits, and its weights frozen.

    Dropout is set to 0, so that log-probs are reproducible in training mode too. `merge` merges the adapter into the
    weights, which then train as those of a model without one. Raises `InputError` if the model or adapter cannot be
    loaded, is not exactly what its files hold, has a weight that is not finite, or is one that `train` wrote and has
    changed since.
    """
    folder = folders.folder_of(name, revision)
    from scoreonce.stages.weights import policy_manifest

    policy_manifest.require_sound(folder)
    options = four_bits.nf4_options(folder, getattr(torch, dtype), device) if quantization else {}
    model, report = from_files(folder, config_without_dropout(folder), getattr(torch, dtype), **options)
    require_whole(
        str(folder),
        missing=report["missing_keys"],
        unexpected=report["unexpected_keys"],
        mismatched=report["mismatched_keys"],
    )
    require_finite(model, folder)
    if quantization:
        four_bits.require_nf4(model, folder)
    if adapter is not None:
        model = (adapters.merged if merge else adapters.applied)(model, folders.folder_of(adapter))
    return model.eval().to(device)


def load_reference(reference: Reference, device: torch.device | str) -> PreTrainedModel:
    """The model that [reference] of a run file describes, as `load_model` gives it."""
    return load_model(
        reference.model,
        dtype=reference.dtype,
        device=device,
        revision=reference.revision,
        adapter=reference.adapter,
        quantization=reference.quantization,
    )


def from_files(
    folder: Path, config: PretrainedConfig, dtype: torch.dtype, **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model as transformers loads it with these `options`, and its report of missing and unexpected weights.

    What text does not go through is frozen. Raises `InputError` where it cannot be loaded.
    """
    try:
        with unlogged():
            model, report = multimodal.auto_class(config).from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=attention_for(config),
                trust_remote_code=folders.trust_remote_code,
                ignore_mismatched_sizes=True,  # the report has them, with their names
                output_loading_info=True,
                **options,
            )
    except InputError:
        raise
    except Exception as error:  # of any kind, where a file of the folder has another form than transformers expects
        raise InputError(
            "The model cannot be loaded.",
            found=first_line(error),
            where=str(folder),
            fix="Check that the folder holds a causal language model: config.json and its safetensors.",
        ) from None
    multimodal.freeze_other_parts(model)
    return model, report


def attention_for(config: PretrainedConfig) -> str | None:
    """The attention to load a model with; None for what transformers takes by itself.

    SDPA cannot cap attention logits, and transformers 5.17 took it for Gemma 2 all the same, without the cap.
    """
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped else None


def recompute_activations(model: PreTrainedModel, *, offload: bool = False) -> None:
    """Enable gradient checkpointing; `offload`: what it keeps is in the CPU's memory meanwhile.

    transformers recomputes a module only in training mode, so those modules are in it and no others: `model.train()`
    would also add the noise by which routers of experts explore.
    """
    with adapters.deprecations_ignored():
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    around = ActivationOffload().around
    for module in model.modules():
        module.training = bool(getattr(module, "gradient_checkpointing", False))
        checkpoint = vars(module).get("_gradient_checkpointing_func")
        if offload and checkpoint is not None:
            vars(module)["_gradient_checkpointing_func"] = around(checkpoint)


def dropout_settings(config: PretrainedConfig) -> dict[str, float]:
    """The dropout probabilities in the config of a model's text part, by key."""
    return {
        key: value
        for key, value in config.get_text_config().to_dict().items()
        if key.endswith(("dropout", "pdrop", "dropout_prob", "dropout_rate", "layerdrop")) and isinstance(value, float)
    }


def config_without_dropout(folder: Path) -> PretrainedConfig:
    """The configuration of a model folder with every dropout probability 0. Raises `InputError` as `load_config`."""
    config = folders.load_config(folder)
    for key in dropout_settings(config):
        setattr(config.get_text_config(), key, 0.0)
    return config


def resolve_device(requested: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to run on. Raises `InputError` if CUDA is requested and there is none."""
    if requested == "cuda" and not torch.cuda.is_available():
        build = f"torch {torch.__version__}, " + ("built without CUDA" if torch.version.cuda is None else "no GPU seen")
        raise InputError(
            "CUDA was asked for, and there is no CUDA device.",
            found=build,
            where="compute.device",
            fix='Use compute.device = "auto", or install a CUDA build of torch and check nvidia-smi.',
        )
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(requested)


def require_fit(model: PreTrainedModel, name: str, *, largest_token: int, longest_sequence: int) -> None:
    """Raise `InputError` if a token id exceeds the vocabulary or a sequence exceeds the table of positions."""
    vocabulary = architecture.causal_lm(model).get_input_embeddings().weight.shape[0]
    if largest_token >= vocabulary:
        raise InputError(
            "The pairs were prepared with a tokenizer that does not fit the model.",
            found=f"token id {largest_token:,} in the pairs, {vocabulary:,} tokens in the model",
            where=name,
            fix="Set data.tokenizer to this model's tokenizer and run `scoreonce prepare` again.",
        )
    limit = position_limit(architecture.causal_lm(model))
    if limit is not None and longest_sequence > limit:
        raise InputError(
            "A sequence is longer than the model allows.",
            where=name,
            found=f"{longest_sequence:,} tokens; the model's table of positions ends at {limit:,}",
            fix=f"Set data.max_length to {limit} or less and run `scoreonce prepare` again.",
        )


def position_limit(model: PreTrainedModel) -> int | None:
    """Number of positions of a model with a learned table of them; None if they are computed (rotary, ALiBi)."""
    config = architecture.settings(model)
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    tables = [
        module.num_embeddings
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module is not model.get_input_embeddings()
    ]
    # OPT's table has two rows more than it has positions.
    return limit if limit is not None and any(limit <= size <= limit + 2 for size in tables) else None
