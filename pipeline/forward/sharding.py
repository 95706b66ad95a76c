"""Sharding a scorer over processes with torch's FSDP2: each holds a part of every weight, gradient and optimizer state.

Zhao et al. 2023, "PyTorch FSDP", in the per-parameter form of `torch.distributed.fsdp.fully_shard`. A block of layers
is gathered for its forward and its backward pass and freed again; what is outside of blocks (embeddings, the last
norm, the head) stays gathered from the forward pass to the end of the backward pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from scoreonce.pipeline.attention.cpu_matmul import use_fast_linears
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError


def shard(
    scorer: TokenScorer,
    mesh: DeviceMesh,
    dtype: torch.dtype,
    *,
    replicated: Collection[nn.Parameter] = (),
    offload: bool = False,
) -> None:
    """Shard a scorer's parameters over `mesh`, in place; one of two dimensions is (replicas, shards).

    The forward and backward passes compute in `dtype`, whatever the parameters are stored in; gradients are summed over
    processes in float32. On a meta device parameters stay without memory until `materialise`. Each process keeps all of
    the `replicated` parameters, which are used as they are and must not be trained: nobody sums their gradients. With
    `offload` parts and their gradients are kept in host memory, and what is gathered of them in the GPU's.
    """
    # Nothing writes to the scores in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": policy,
        "ignored_params": set(replicated),
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
    }
    for block in blocks_of(architecture.causal_lm(scorer.model)):
        fully_shard(block, **options)
    fully_shard(scorer, **options)


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of a model that are gathered one after the other, outermost first.

    They are of the classes that transformers does not split between devices. Raises `InputError` where it names none.
    """
    names = set(model._no_split_modules or ())

    def found(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if type(child).__name__ in names:
                yield child
            else:
                yield from found(child)

    blocks = list(found(model))
    if not blocks:
        raise InputError(
            f"{type(model).__name__} cannot be sharded.",
            found="transformers names no layers of it that belong together (_no_split_modules)",
            where="compute.shard",
            fix='Set compute.shard = "none".',
        )
    return blocks


def materialise(scorer: TokenScorer, device: torch.device) -> None:
    """Move a sharded scorer to `device`; parameters on the meta device get memory that is not yet filled."""
    kept = {name: own_part(tensor.detach()).to(device) for name, tensor in _tensors(scorer) if not tensor.is_meta}
    scorer.to_empty(device=device)
    for name, tensor in _tensors(scorer):
        if name in kept:
            own_part(tensor.detach()).copy_(kept[name])
    use_fast_linears(scorer.model)  # which depends on the device


def move_rest(scorer: TokenScorer, device: torch.device) -> None:
    """Move what is not in parts to `device`: buffers, and parameters that each process keeps whole."""
    for module in scorer.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
        for parameter in module.parameters(recurse=False):
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(device)


def _tensors(scorer: TokenScorer) -> Iterator[tuple[str, Tensor]]:
    yield from scorer.named_parameters()
    yield from scorer.named_buffers()


def release(scorer: nn.Module) -> None:
    """Free what a forward pass without a backward pass has gathered; nothing for a scorer that is not sharded."""
    if isinstance(scorer, FSDPModule):
        scorer.reshard()


def own_part(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this process holds; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all processes, each of which has to call this; any other tensor as it is.

    It is on the device of the mesh, whose processes send each other nothing of another: an offloaded part goes there.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    there: DTensor = tensor.to(tensor.device_mesh.device_type)  # type: ignore[assignment]  # a DTensor stays one
    return there.full_tensor()
