"""The state of an optimizer as named tensors and plain values, which safetensors and JSON can hold, and back.

Most optimizers keep tensors and numbers per parameter. Those of 8 bits keep more: torchao wraps codes, scales and a
table in one tensor, bitsandbytes nests a dictionary, both share a table among parameters, and torchao's learning rate
is a tensor. The name of a tensor is its path: parameter, key, and the parts of a nested or wrapped value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_TENSOR = object()  # stands where a value is kept as a tensor


def taken_apart(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an optimizer's state by path, and the rest as JSON can hold it.

    `names` are those of the parameters, in the order of the optimizer's groups. No two tensors share memory.
    """
    state, parts = optimizer.state_dict(), _Parts()
    values = {names[number]: parts.take(entries, names[number]) for number, entries in state["state"].items()}
    groups = [plain(group) for group in state["param_groups"]]
    return parts.tensors, {"state": values, "groups": groups, "wrapped": parts.wrapped}


def put_together(
    optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> None:
    """Put what `taken_apart` gave back into an optimizer over the same parameters.

    Its weights may be changed, by a step that has to make wrapped or paged tensors. Raises `KeyError`, `ValueError` or
    `RuntimeError` where the state is not that of such an optimizer.
    """
    state: dict[str, Any] = {name: dict(entries) for name, entries in rest["state"].items()}
    for path, tensor in tensors.items():
        *outer, last = path.split("/")
        reduce(lambda tree, key: tree.setdefault(key, {}), outer, state)[last] = tensor
    _wrap(optimizer, names, state, rest.get("wrapped", ()))
    numbers = {name: number for number, name in enumerate(names)}
    groups = [
        {
            key: torch.full_like(own[key], value) if isinstance(own.get(key), Tensor) else value
            for key, value in group.items()
        }
        for own, group in zip(optimizer.param_groups, rest["groups"], strict=True)
    ]
    _load(optimizer, {"state": {numbers[name]: entries for name, entries in state.items()}, "param_groups": groups})


def plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a state dict that JSON can hold, tensors of one element as numbers.

    Functions, as of a schedule, are left out: they are made again from the run file.
    """
    values = {key: _number(value) for key, value in state.items()}
    return {key: value for key, value in values.items() if isinstance(value, bool | int | float | str | list | None)}


def _number(value: Any) -> Any:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    return [_number(inner) for inner in value] if isinstance(value, list | tuple) else value


class _Parts:
    """Tensors by path, collected from nested values."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.wrapped: list[str] = []  # paths of tensors that were taken apart
        self._memory: set[int] = set()

    def take(self, value: Any, path: str) -> Any:
        """What is left of a value without its tensors."""
        if isinstance(value, dict):
            left = {key: self.take(inner, f"{path}/{key}") for key, inner in value.items()}
            return {key: inner for key, inner in left.items() if inner is not _TENSOR}
        if not isinstance(value, Tensor):
            return value
        if isinstance(value, DTensor):
            self.tensors[path] = value.detach()
        elif is_traceable_wrapper_subclass(value):
            self.wrapped.append(path)
            for name in value.__tensor_flatten__()[0]:
                self.take(getattr(value, name), f"{path}/{name}")
        else:
            self.tensors[path] = self._own(value.detach().contiguous())
        return _TENSOR

    def _own(self, tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage().data_ptr()
        if memory in self._memory:  # safetensors writes no memory twice
            return tensor.clone()
        self._memory.add(memory)
        return tensor


def _wrap(
    optimizer: torch.optim.Optimizer, names: Sequence[str], state: dict[str, Any], wrapped: Sequence[str]
) -> None:
    """Put parts in `state` together as the tensors that the optimizer makes of them."""
    if not wrapped:
        return
    parameters = dict(zip(names, _parameters(optimizer), strict=True))
    _take_empty_step(optimizer, [parameters[path.split("/")[0]] for path in wrapped])
    for path in wrapped:
        name, *keys, last = path.split("/")
        # The class and what else it is made with come from the optimizer, never from a file.
        made = reduce(getitem, keys, optimizer.state[parameters[name]])[last]
        inner, context = made.__tensor_flatten__()
        tree = reduce(getitem, keys, state[name])
        parts = {part: tree[last][part].to(getattr(made, part).device) for part in inner}
        tree[last] = type(made).__tensor_unflatten__(parts, context, made.shape, made.stride())


def _load(optimizer: torch.optim.Optimizer, tree: dict[str, Any]) -> None:
    """Load a state dict. Where an optimizer pages its state (bitsandbytes), loading would leave it on the GPU for good.

    So it makes pages of its own first, and what was loaded goes into them.
    """
    pages: list[tuple[Tensor, Any, Tensor]] = []
    if vars(optimizer).get("is_paged"):
        _take_empty_step(optimizer, _parameters(optimizer))
        pages = [
            (parameter, key, value)
            for parameter, entries in optimizer.state.items()
            for key, value in entries.items()
            if isinstance(value, Tensor) and vars(value).get("is_paged")
        ]
    optimizer.load_state_dict(tree)
    for parameter, key, page in pages:
        page.copy_(optimizer.state[parameter][key])
        optimizer.state[parameter][key] = page


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _take_empty_step(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    """Have an optimizer make its state of some parameters, by a step without gradient and learning rate."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = torch.zeros_like(rate) if isinstance(rate, Tensor) else 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.zero_grad()
