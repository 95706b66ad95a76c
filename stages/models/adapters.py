"""PEFT adapters on a model: applied or merged, trained on, put on top of another one, and written.

A new LoRA on a reference that is an adapter itself trains beside it. What is written is one LoRA of both on the base
model, because PEFT loads one adapter: with scales s, (s1 B1 A1 + s2 B2 A2) = [B1 B2] [s1 A1; s2 A2].
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from scoreonce.schemas.errors import InputError, first_line
from scoreonce.stages.models.lora import (
    Lora,
    exact_magnitudes,
    linear_names,
    lora_layers,
    peft_config,
    require_kept_targets,
    stacked_weights,
)
from scoreonce.stages.weights.finite import require_finite
from scoreonce.stages.weights.loading_report import require_whole

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel
    from peft.tuners.lora import LoraLayer

TRAINED, REFERENCE = "default", "reference"  # names of adapters inside a model; PEFT's own default is the first
LORA_DEFAULTS = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "lora_bias")


def applied(model: PreTrainedModel, adapter: Path, *, trains: bool = False) -> PeftModel:
    """The model with an adapter, which is trained on where it `trains`. Raises `InputError` where it does not fit."""
    return _loaded(model, adapter, TRAINED, trains=trains)


def merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The model with the adapter merged into its weights, which rounds in half precision; its weights train as before.

    Raises `InputError` where the adapter does not fit the model.
    """
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    whole: PreTrainedModel = applied(model, adapter).merge_and_unload()
    for name, parameter in whole.named_parameters():  # PEFT froze all of them
        parameter.requires_grad_(name not in frozen)
    return whole


def with_new_lora(model: PreTrainedModel, lora: Lora) -> PeftModel:
    """The model with new LoRA matrices, and modules to save, as its only trained weights. Its outputs do not change.

    Raises `InputError` if no module matches the targets, or if one is the output head: log-probs are computed from the
    head's own weight (`architecture.head_of`), without an adapter.
    """
    peft = _peft("train.lora_rank")
    with _targets_checked(model, lora), deprecations_ignored():
        settings = peft_config(peft, model, lora)
        asked_experts = bool(settings.target_parameters)
        wrapped: PeftModel = peft.get_peft_model(model, settings)
    if asked_experts:
        require_kept_targets(settings, model)
    exact_magnitudes(wrapped, TRAINED)
    return wrapped


def with_lora_on_top(model: PreTrainedModel, adapter: Path, lora: Lora) -> PeftModel:
    """The model with a frozen `adapter`, and new LoRA matrices beside it as its only trained weights.

    Raises `InputError` as `with_new_lora` does, and where one of the two is more than a plain LoRA.
    """
    with _targets_checked(model, lora), deprecations_ignored():
        settings = _second_config(model, lora)
        wrapped = _loaded(model, adapter, REFERENCE)
        _require_plain_lora(wrapped, adapter)
        return _with_second_lora(wrapped, settings)


def shaped(model: PreTrainedModel, adapter: Path, *, trains: bool = False, name: str = TRAINED) -> PeftModel:
    """The model with new matrices of the sizes that an adapter's has, for a model without weights: nothing is loaded.

    Raises `InputError` where the adapter's configuration cannot be read or does not fit, or it adds virtual tokens.
    """
    peft = _peft("reference.adapter")
    with _adapter_errors(adapter), deprecations_ignored():
        settings = peft.PeftConfig.from_pretrained(str(adapter))
        settings.inference_mode = not trains
        wrapped: PeftModel = peft.get_peft_model(model, settings, adapter_name=name)
    _require_no_virtual_tokens(settings, adapter)
    return wrapped


def fill(wrapped: PeftModel, adapter: Path, name: str = TRAINED, *, trains: bool = False) -> None:
    """Load an adapter's weights into a model that has matrices of their sizes.

    Raises `InputError` where they are not those of the matrices.
    """
    with _adapter_errors(adapter), deprecations_ignored():
        report = wrapped.load_adapter(str(adapter), name, is_trainable=trains)
    missing = [key for key in report.missing_keys if "vblora_vector_bank" not in key]  # one for all layers
    require_whole(str(adapter), missing=missing, unexpected=report.unexpected_keys, config="adapter_config.json")


def shaped_with_lora_on_top(model: PreTrainedModel, adapter: Path, lora: Lora) -> PeftModel:
    """What `with_lora_on_top` gives, for a model without weights: nothing is loaded."""
    with _targets_checked(model, lora), deprecations_ignored():
        settings = _second_config(model, lora)
        return _with_second_lora(shaped(model, adapter, name=REFERENCE), settings)


def _second_config(model: PreTrainedModel, lora: Lora) -> LoraConfig:
    """Settings of the trained LoRA beside the reference's. Raises `InputError` where the two cannot be one LoRA."""
    if more := lora.more_than_matrices:
        raise InputError(
            "On top of a reference's adapter only a plain LoRA is trained: both are written as one.",
            found=", ".join(more),
            where="[train] of the run file",
            fix="Leave these out, train the adapter on with lora_continue = true and no lora_rank, or merge the "
            "adapter first and name the merged model as the reference.",
        )
    return peft_config(_peft("train.lora_rank"), model, lora)


def _with_second_lora(wrapped: PeftModel, settings: LoraConfig) -> PeftModel:
    """Add the trained LoRA beside the reference's adapter."""
    wrapped.add_adapter(TRAINED, settings)
    wrapped.base_model.set_adapter([REFERENCE, TRAINED])
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(f".{TRAINED}." in name)
    return wrapped


def write(
    model: PeftModel, folder: Path, base: str, revision: str | None, tensors: dict[str, Tensor] | None = None
) -> None:
    """Write the trained adapter as PEFT reads it, on the model that `base` and `revision` name.

    `tensors` are its matrices by name, where they are not the model's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if REFERENCE in model.peft_config:
        config, stacked = _as_one(model)
        save_file(stacked, folder / "adapter_model.safetensors", {"format": "pt"})
    else:
        config = model.peft_config[TRAINED]
        # PEFT looks the base model up to see whether its vocabulary grew: in its folder, not on the Hub.
        config.base_model_name_or_path = model.get_base_model().name_or_path
        model.save_pretrained(str(folder), state_dict=tensors)
    config.base_model_name_or_path, config.revision, config.inference_mode = base, revision, True
    config.save_pretrained(str(folder))


def dropouts(model: PeftModel) -> list[nn.Module]:
    """The dropout of the trained matrices."""
    return [layer.lora_dropout[TRAINED] for _, layer in lora_layers(model) if TRAINED in layer.lora_dropout]


def base_name(model: str) -> str:
    """What an adapter calls its base model, wherever it is loaded from: an absolute path, or the name on the Hub."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _peft(where: str) -> Any:
    try:
        import peft
    except ImportError:
        raise InputError(
            "An adapter needs the peft package.",
            found="peft is not installed",
            where=where,
            fix="pip install 'scoreonce[peft]'.",
        ) from None
    return peft


@contextmanager
def deprecations_ignored() -> Iterator[None]:
    """For names that exist in every release 5 of transformers and are deprecated in later ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _loaded(model: PreTrainedModel, adapter: Path, name: str, *, trains: bool = False) -> PeftModel:
    peft = _peft("reference.adapter")
    from scoreonce.stages.weights import policy_manifest

    policy_manifest.require_sound(adapter)
    with _adapter_errors(adapter), deprecations_ignored():
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # refused below
        wrapped: PeftModel = peft.PeftModel.from_pretrained(model, str(adapter), adapter_name=name, is_trainable=trains)
    _require_no_virtual_tokens(wrapped.peft_config[name], adapter)
    fill(wrapped, adapter, name, trains=trains)  # once more, because only this says which weights were found
    require_finite(wrapped, adapter)
    return wrapped


@contextmanager
def _adapter_errors(adapter: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of any kind, as for a model
        raise InputError(
            "The adapter cannot be loaded.",
            found=first_line(error),
            where=str(adapter),
            fix="Give a PEFT folder (adapter_config.json, adapter_model.safetensors) trained for this model.",
        ) from None


def _require_no_virtual_tokens(config: PeftConfig, adapter: Path) -> None:
    if config.is_prompt_learning:
        raise InputError(
            "The adapter adds virtual tokens to the prompt, which the forward pass of scoreonce does not do.",
            found=f"peft_type {config.peft_type.value}",
            where=str(adapter),
            fix="Use an adapter that changes the model's layers, such as LoRA.",
        )


@contextmanager
def _targets_checked(model: PreTrainedModel, lora: Lora) -> Iterator[None]:
    """Raise `InputError` where the targets name the output head, or PEFT finds nothing to adapt in the block."""
    modules = dict(model.named_modules())
    head = next((name for name, module in modules.items() if module is model.get_output_embeddings()), "")
    if any(head == target or head.endswith(f".{target}") for target in lora.targets):
        raise InputError(
            "LoRA cannot adapt the output head.",
            found=f"{head} in lora_targets",
            where="train.lora_targets",
            fix='Leave it out, or use ["all-linear"], which excludes it. lora_modules_to_save can train it whole.',
        )
    names = [*linear_names(model), *stacked_weights(model)]
    try:
        yield
    except ValueError as error:
        raise InputError(
            "LoRA finds nothing to adapt.",
            found=first_line(error),
            where="train.lora_targets",
            fix=f'Use ["all-linear"], or some of {", ".join(names)}.',
        ) from None


def _require_plain_lora(model: PeftModel, adapter: Path) -> None:
    """Raise `InputError` where the reference's adapter is more than products of two matrices on linear layers."""
    config = model.peft_config[REFERENCE].to_dict()
    more = [f"{name} = {config[name]}" for name in LORA_DEFAULTS if config.get(name)]
    if config["peft_type"] != "LORA":
        more = [f"peft_type {config['peft_type'].value}"]
    elif config["bias"] != "none":
        more.append(f"bias = {config['bias']}")
    elif any(REFERENCE in layer.lora_embedding_A for _, layer in lora_layers(model)):
        more.append("matrices on the embedding")
    if more:
        raise InputError(
            "A new LoRA can be put on top of a plain LoRA only.",
            found=", ".join(more),
            where=str(adapter),
            fix="Train the adapter on with train.lora_continue = true and no train.lora_rank, or train all weights "
            "without either.",
        )


@torch.no_grad()
def _as_one(model: PeftModel) -> tuple[PeftConfig, dict[str, Tensor]]:
    """The frozen and the trained LoRA as one: its configuration, and its tensors as PEFT names them.

    Its scale is 1. A layer that only one of them adapts is filled up with zeros, so that all layers have the same rank.
    """
    from peft import LoraConfig

    parts = {name: _stacked(layer) for name, layer in lora_layers(model)}
    rank = max(a.shape[0] for a, _ in parts.values())
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in parts.items():
        missing = rank - a.shape[0]
        tensors[f"base_model.model.{name}.lora_A.weight"] = nn.functional.pad(a, (0, 0, 0, missing)).cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = nn.functional.pad(b, (0, missing)).cpu().contiguous()
    settings = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(parts),
        task_type="CAUSAL_LM",
        fan_in_fan_out=model.peft_config[REFERENCE].fan_in_fan_out,
        inference_mode=True,
    )
    return settings, tensors


def _stacked(layer: LoraLayer) -> tuple[Tensor, Tensor]:
    """`[s1 A1; s2 A2]` (r1 + r2, in) and `[B1 B2]` (out, r1 + r2) of one layer."""
    names = [name for name in (REFERENCE, TRAINED) if name in layer.lora_A]
    a = [layer.lora_A[name].weight.float() * layer.scaling[name] for name in names]
    b = [layer.lora_B[name].weight.float() for name in names]
    return torch.cat(a), torch.cat(b, dim=1)
