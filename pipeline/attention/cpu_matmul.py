"""Matrix products on a CPU, by the faster of the two libraries that torch is built with: MKL or oneDNN.

torch uses MKL for float32 products. On processors not made by Intel, MKL does not use AVX-512: on a Zen 5, oneDNN is
1.7 to 2.4 times as fast for the shapes of a language model. The choice depends on the processor alone, so that a
resumed run has the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from scoreonce.pipeline.attention.cpu_features import onednn_is_faster

_BATCHES: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # oneDNN's products of matrices


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right`, (rows, inner) by (inner, columns), without autograd."""
    if left.device.type == "cpu" and left.dtype == right.dtype == torch.float32 and onednn_is_faster():
        return _onednn(left, right.t(), None)
    return left @ right


@contextmanager
def fast_batches() -> Iterator[None]:
    """In this block, compute batched float32 products (`torch.bmm`) on a CPU with oneDNN, if that is exact."""
    kept = _BATCHES.fp32_precision
    if batches_stay_exact():
        _BATCHES.fp32_precision = "bf16"
    try:
        yield
    finally:
        _BATCHES.fp32_precision = kept


@cache
def batches_stay_exact() -> bool:
    """Whether oneDNN computes batched products in float32 even when it is allowed bfloat16; determined by running one.

    torch passes batched products to oneDNN only with that permission, which oneDNN uses only on processors with matrix
    units (AMX).
    """
    if not onednn_is_faster():
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(2, 192, 192, generator=generator) for _ in range(2))
    kept = _BATCHES.fp32_precision
    _BATCHES.fp32_precision = "bf16"
    try:
        found = torch.bmm(left, right).double()
    finally:
        _BATCHES.fp32_precision = kept
    # Sums of 192 products: off by some 1e-5 in float32, by some 1e-1 with factors in bfloat16.
    return bool((found - torch.bmm(left.double(), right.double())).abs().max() < 1e-3)


def use_fast_linears(model: nn.Module) -> None:
    """Make the float32 linear layers of `model` on a CPU use oneDNN if it is faster; parameters do not change."""
    for module in model.modules():
        if type(module) in (nn.Linear, Conv1D) and module.weight.device.type == "cpu" and onednn_is_faster():
            module.forward = MethodType(_forward, module)


def lay_out_for_forward(model: PreTrainedModel) -> None:
    """Store the weights of linear layers in the memory order that is fastest for a forward pass; values do not change.

    Only for a model that is not trained: backward passes become slower. Measured on two cores of a Zen 5: scoring is 4
    to 10 % faster, bit for bit the same.
    """
    others = [model.get_input_embeddings(), model.get_output_embeddings()]  # looked up by row; no faster
    kept = {id(module.weight) for module in others if module is not None}
    moved = set()
    for module in model.modules():
        if type(module) is nn.Linear and id(module.weight) not in kept:
            weight = module.weight.data
            if weight.device.type == "cpu" and weight.dtype == torch.float32 and onednn_is_faster():
                module.weight.data = weight.t().contiguous().t()
                moved.add(id(module.weight))
    if moved:
        # The others lie in the mapped file of the model, and would keep all its pages in memory beside the copies.
        for parameter in model.parameters():
            if id(parameter) not in moved:
                parameter.data = parameter.data.clone()


def _forward(module: nn.Linear | Conv1D, x: Tensor) -> Tensor:
    weight = module.weight if isinstance(module, nn.Linear) else module.weight.t()
    # A compiler chooses its own products.
    if x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Linear.apply(x, weight, module.bias)
    return nn.functional.linear(x, weight, module.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        up, flat = upstream.reshape(-1, upstream.shape[-1]), x.reshape(-1, x.shape[-1])
        return (
            _onednn(up, weight.t(), None).view(x.shape) if needs_x else None,
            _cross(up, flat) if needs_weight else None,
            up.sum(0) if needs_bias else None,
        )


def _cross(left: Tensor, right: Tensor) -> Tensor:
    """`left.T @ right`. oneDNN copies a transposed left factor, so the narrower one goes to the left."""
    if left.shape[1] <= right.shape[1]:
        return _onednn(left.t(), right.t(), None)
    return _onednn(right.t(), left.t(), None).t()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ weight.T + bias`."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
