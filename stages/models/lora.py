"""New LoRA matrices: what a run file asks for, as PEFT takes it, and what cannot start at the reference.

Hu et al. 2022, "LoRA"; Kalajdzievski 2023, "A Rank Stabilization Scaling Factor" (rsLoRA); Liu et al. 2024, "DoRA".
A policy starts at the reference where the product of its matrices is zero at first, and DoRA's magnitudes are the
norms of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from scoreonce.pipeline.attention.last_layer import blocks
from scoreonce.pipeline.forward import architecture
from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.stages.models import multimodal

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from peft.tuners.lora import LoraLayer

ALL_LINEAR, ALL_EXPERTS = "all-linear", "all-experts"
# PEFT's names for first values with which the matrices' product is zero.
STARTS: dict[str, bool | str] = {"kaiming": True, "gaussian": "gaussian", "orthogonal": "orthogonal"}
# Those with which it is not, or the saved adapter does not fit the model that it names: why.
CHANGED, DATA = "it changes the weights of the model that the saved adapter names", "it needs a pass over data first"
NO_STARTS = {"pissa": CHANGED, "olora": CHANGED, "corda": CHANGED, "loftq": CHANGED, "eva": DATA, "lora_ga": DATA}


@dataclass(frozen=True)
class Lora:
    """New LoRA matrices as a run file describes them."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = (ALL_LINEAR,)
    dropout: float = 0.0
    use_dora: bool = False
    use_rslora: bool = False
    modules_to_save: tuple[str, ...] = ()
    init: str = "kaiming"

    @property
    def more_than_matrices(self) -> list[str]:
        """What a plain LoRA on linear layers is without, as in a run file."""
        asked: list[str] = ["lora_use_dora = true"] if self.use_dora else []
        if self.modules_to_save:
            asked.append(f"lora_modules_to_save = {list(self.modules_to_save)}")
        if experts := [name for name in self.targets if name == ALL_EXPERTS or "experts." in name]:
            asked.append(f"lora_targets has {', '.join(experts)}")
        return asked


def require_start(init: str) -> None:
    """Raise `InputError` where first values of this name would not leave the policy at the reference."""
    if init in STARTS:
        return
    kind = init.partition("_niter_")[0]
    raise InputError(
        "These first values of LoRA matrices cannot be used."
        if kind in NO_STARTS
        else "No such first values of LoRA matrices.",
        found=f"{init!r}: {NO_STARTS[kind]}" if kind in NO_STARTS else f"{init!r}.{did_you_mean(init, list(STARTS))}",
        where="train.lora_init",
        fix=f"Use one of: {', '.join(STARTS)}. With these the policy starts at the reference.",
    )


def peft_config(peft: Any, model: PreTrainedModel, lora: Lora) -> LoraConfig:
    """The settings of new matrices on `model`, as PEFT takes them. Raises `InputError` for what PEFT cannot do."""
    experts = stacked_weights(model)
    named = [name for name in lora.targets if name in experts]
    stacked = experts if ALL_EXPERTS in lora.targets else named
    modules: str | list[str] = [name for name in lora.targets if name not in (ALL_LINEAR, ALL_EXPERTS, *named)]
    if ALL_LINEAR in lora.targets:
        # PEFT's own for some mixtures of experts is all matrices, routers too, with a rank of its own for fused ones.
        modules = _linear_layers(model) if stacked else ALL_LINEAR
    if ALL_EXPERTS in lora.targets and not experts:
        raise InputError(
            "The model has no experts to adapt.",
            found=f"{ALL_EXPERTS!r}, and no weights of several experts in one tensor in {type(model).__name__}",
            where="train.lora_targets",
            fix=f'Use ["{ALL_LINEAR}"].',
        )
    if stacked and (lora.dropout or lora.use_dora):
        raise InputError(
            "LoRA on the weights of experts has neither dropout nor DoRA.",
            found=f"lora_dropout = {lora.dropout}, lora_use_dora = {str(lora.use_dora).lower()}; {', '.join(stacked)}",
            where="[train] of the run file",
            fix=f'Leave them out, or train without experts: lora_targets = ["{ALL_LINEAR}"].',
        )
    _require_modules(model, lora.modules_to_save)
    settings: LoraConfig = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=modules,
        target_parameters=stacked or None,
        lora_dropout=lora.dropout,
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
        modules_to_save=list(lora.modules_to_save) or None,
        exclude_modules=multimodal.other_parts(model),
        init_lora_weights=STARTS[lora.init],
        task_type="CAUSAL_LM",
    )
    return settings


def stacked_weights(model: PreTrainedModel) -> list[str]:
    """The weights of several experts in one tensor, by the end of their names: "experts.down_proj"."""
    found: dict[str, None] = {}
    for block in blocks(model):
        for name, module in block.named_modules():
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 3 and not isinstance(module, _ConvNd):
                    found[f"{name.rpartition('.')[2]}.{own}"] = None
    return list(found)


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """The full names of the linear layers but the output head."""
    head = model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]


def require_kept_targets(config: LoraConfig, model: PreTrainedModel) -> None:
    """Raise `InputError` where PEFT took names of linear layers for experts of an earlier release of transformers."""
    if config.target_parameters and config.rank_pattern:
        raise InputError(
            "PEFT does not adapt the experts of this architecture by their own names.",
            found=f"it took linear layers of {type(model).__name__} for weights of experts",
            where="train.lora_targets",
            fix=f'Use ["{ALL_LINEAR}"], which has the experts there.',
        )


def linear_names(model: PreTrainedModel) -> list[str]:
    """The last part of the name of each linear layer."""
    return sorted({name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)})


def _require_modules(model: PreTrainedModel, names: tuple[str, ...]) -> None:
    """Raise `InputError` where a module to be trained whole is not there, or shares its weight with another."""
    modules = dict(model.named_modules())
    for name in names:
        found = [module for key, module in modules.items() if key == name or key.endswith(f".{name}")]
        if not found:
            known = sorted({key.rpartition(".")[2] for key in modules if not key.rpartition(".")[2].isdigit()} - {""})
            raise InputError(
                "No such module to train whole.",
                found=f"{name!r}.{did_you_mean(name, known)}",
                where="train.lora_modules_to_save",
                fix=f"Name modules of {type(model).__name__}, such as {', '.join(known[:20])}.",
            )
        if _are_tied(model) and any(module in _ends(model) for module in found):
            raise InputError(
                "Embeddings and output head are one weight, and PEFT would train a copy of one of them.",
                found=f"{name!r}, and tie_word_embeddings = true in the model's config",
                where="train.lora_modules_to_save",
                fix="Leave it out, or train all weights.",
            )


def _ends(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def _are_tied(model: PreTrainedModel) -> bool:
    embeddings, head = _ends(model)
    return head is not None and embeddings.weight is head.weight


def lora_layers(model: PeftModel) -> Iterator[tuple[str, LoraLayer]]:
    """The adapted layers, by their name in the base model."""
    from peft.tuners.lora import LoraLayer

    for name, module in architecture.causal_lm(model).named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


@torch.no_grad()
def exact_magnitudes(model: PeftModel, adapter: str) -> None:
    """Set DoRA's magnitudes to the norms of the weights as its forward pass computes them.

    PEFT rounds them to the dtype of the weights, which in bfloat16 moves the outputs of each layer by up to 0.4 %.
    """
    from peft.utils.integrations import dequantize_module_weight

    for _, layer in lora_layers(model):
        if adapter not in layer.lora_magnitude_vector:
            continue
        magnitude = layer.lora_magnitude_vector[adapter]
        weight: Tensor = dequantize_module_weight(layer.get_base_layer()).to(magnitude.weight.dtype)
        magnitude.weight.copy_(magnitude.get_weight_norm(weight, weight.new_zeros(()), 0.0))
