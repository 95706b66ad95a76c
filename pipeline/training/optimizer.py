"""Optimizers and schedules of transformers by name, and float32 master weights for half-precision models."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import SchedulerType, get_scheduler
from transformers.trainer_pt_utils import get_parameter_names
from transformers.training_args import OptimizerNames, ParallelMode

from scoreonce.pipeline.forward.sharding import own_part
from scoreonce.schemas.errors import InputError, did_you_mean

# No weight decay for these, as in transformers' own trainer.
NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)", r"ln_"]

# Made without transformers' Trainer: importing it loads datasets and pandas, 80 MiB and most of a second.
TORCH_ADAMW: dict[str, dict[str, Any]] = {"adamw_torch": {}, "adamw_torch_fused": {"fused": True}}


# Those that update each weight from its own gradient and state, so that a part of the weights can be updated alone.
ELEMENTWISE = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")


class OptimizerSettings(Protocol):
    """The settings that an optimizer depends on."""

    @property
    def optimizer(self) -> str: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def weight_decay(self) -> float: ...  # noqa: D102
    @property
    def adam_beta1(self) -> float: ...  # noqa: D102
    @property
    def adam_beta2(self) -> float: ...  # noqa: D102
    @property
    def adam_epsilon(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Masters:
    """Float32 copies of half-precision parameters, which the optimizer updates.

    An update of 1e-6 of a weight is below bfloat16's resolution and would be lost; the forward pass keeps the dtype
    that the reference was scored in.

    Offloaded, all parameters have copies, on the CPU. The optimizer then keeps its state and steps there, and a GPU
    holds no more than weights and gradients (Ren et al. 2021, "ZeRO-Offload").
    """

    parameters: list[nn.Parameter]
    masters: list[nn.Parameter]

    @classmethod
    def of(cls, parameters: Iterable[nn.Parameter], *, offloads: bool = False) -> Masters:
        """Copies of half-precision parameters, and the others themselves; where it `offloads`, copies of all."""
        kept = [parameter for parameter in parameters if parameter.requires_grad]
        return cls(kept, [_copied_to_cpu(p) if offloads else p if _is_wide(p) else _copied(p) for p in kept])

    def take_gradients(self) -> None:
        """Move gradients from the model to the masters."""
        for parameter, master in self._apart():
            # First to the other device, in the dtype that takes fewer bytes.
            master.grad = None if parameter.grad is None else parameter.grad.to(master.device).to(master.dtype)
            parameter.grad = None

    @torch.no_grad()
    def give_weights(self) -> None:
        """Round the masters back into the model."""
        for parameter, master in self._apart():
            parameter.copy_(master)

    def _apart(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        return [(p, m) for p, m in zip(self.parameters, self.masters, strict=True) if p is not m]


def _is_wide(parameter: Tensor) -> bool:
    return parameter.dtype in (torch.float32, torch.float64)


def _copied(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().float())


def _copied_to_cpu(parameter: Tensor) -> nn.Parameter:
    copy = parameter.detach().to("cpu", copy=True)
    return nn.Parameter(copy if _is_wide(copy) else copy.float())


@dataclass(frozen=True)
class _Arguments:
    """What transformers reads to make an optimizer; TrainingArguments itself would reset accelerate's state."""

    optim: OptimizerNames
    learning_rate: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    optim_args: str | None = None
    optim_target_modules: None = None
    gradient_accumulation_steps: int = 1
    warmup_steps: int = 0
    parallel_mode: ParallelMode = ParallelMode.NOT_PARALLEL


def make_optimizer(model: nn.Module, masters: Masters, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """An optimizer by transformers' name over `masters`; norms and biases are not decayed.

    Raises `InputError` for an unknown name or one whose package is missing.
    """
    names = [name.value for name in OptimizerNames]
    if settings.optimizer not in names:
        raise InputError(
            "No such optimizer.",
            found=f"{settings.optimizer!r}.{did_you_mean(settings.optimizer, names)}",
            where="train.optimizer",
            fix=f"Use one of: {', '.join(names)}.",
        )
    try:
        kind, keywords = _adamw(settings) if settings.optimizer in TORCH_ADAMW else _by_transformers(settings)
        return kind(_groups(model, masters, settings.weight_decay), **keywords)
    except (ImportError, ValueError) as error:
        raise InputError(
            "The optimizer cannot be made.",
            found=str(error).splitlines()[0],
            where="train.optimizer",
            fix="Install the package that it names, or use adamw_torch.",
        ) from None


def _adamw(settings: OptimizerSettings) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    keywords = {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "eps": settings.adam_epsilon,
    }
    return torch.optim.AdamW, keywords | TORCH_ADAMW[settings.optimizer]


def _by_transformers(settings: OptimizerSettings) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    from transformers import Trainer

    arguments = _Arguments(
        OptimizerNames(settings.optimizer),
        settings.learning_rate,
        settings.weight_decay,
        settings.adam_beta1,
        settings.adam_beta2,
        settings.adam_epsilon,
    )
    made: tuple[type[torch.optim.Optimizer], dict[str, Any]] = Trainer.get_optimizer_cls_and_kwargs(arguments)
    return made


def _groups(model: nn.Module, masters: Masters, weight_decay: float) -> list[dict[str, Any]]:
    decayed = set(get_parameter_names(model, [nn.LayerNorm], NO_DECAY))
    names = {parameter: name for name, parameter in model.named_parameters()}
    pairs = list(zip(masters.parameters, masters.masters, strict=True))
    groups = [
        {"params": [m for p, m in pairs if names[p] in decayed], "weight_decay": weight_decay},
        {"params": [m for p, m in pairs if names[p] not in decayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_scheduler(
    optimizer: torch.optim.Optimizer, name: str, warmup_ratio: float, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule by transformers' name over `steps` optimizer steps. Raises `InputError` for an unknown name."""
    names = [kind.value for kind in SchedulerType]
    if name not in names:
        raise InputError(
            "No such schedule.",
            found=f"{name!r}.{did_you_mean(name, names)}",
            where="train.scheduler",
            fix=f"Use one of: {', '.join(names)}.",
        )
    warmup = math.ceil(steps * warmup_ratio)
    try:
        made = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
        if "metrics" in inspect.signature(made.step).parameters:
            raise ValueError(f"{name} follows a loss on held-out data, which training gives to no schedule")
        return made
    except (TypeError, ValueError) as error:
        raise InputError(
            "The schedule cannot be made.",
            found=str(error).splitlines()[0],
            where="train.scheduler",
            fix="Use linear, cosine or constant_with_warmup.",
        ) from None


def gradient_norm(parameters: Iterable[Tensor]) -> float:
    """The global L2 norm of the gradients; where they are sharded, all processes call this."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([own_part(gradient) for gradient in gradients])
    mesh = next((gradient.device_mesh for gradient in gradients if isinstance(gradient, DTensor)), None)
    if mesh is None:
        return float(norm)
    # By hand, on the device of the mesh: processes cannot send each other offloaded parts.
    squared = norm.square().to(mesh.device_type)
    dist.all_reduce(squared, group=mesh.get_group(mesh.ndim - 1))  # of two dimensions, the first is of replicas
    return float(squared.sqrt())
