"""Attention that computes nothing: it makes and keeps the tensors that the real one makes and keeps.

No kernel that scoreonce uses keeps scores: flex and variable-length attention on a GPU keep queries, keys, values,
output and a log-normaliser per query and head; attention by rows on a CPU keeps the first three and recomputes. Where
transformers' SDPA is what calls a kernel, it first repeats keys and values for each query head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from scoreonce.pipeline.attention.last_layer import replace_attention


def attend_without_computing(model: PreTrainedModel, *, keeps_output: bool, repeats_keys: bool) -> None:
    """Replace the attention of a model on the meta device. Raises `ValueError` where it cannot be replaced."""
    name = f"scoreonce_memory_{'output' if keeps_output else 'rows'}_{'repeated' if repeats_keys else 'grouped'}"
    replace_attention(model, name, _attend(keeps_output, repeats_keys))


def _attend(keeps_output: bool, repeats_keys: bool) -> Callable[..., tuple[Tensor, None]]:
    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **_: Any
    ) -> tuple[Tensor, None]:
        if repeats_keys and (groups := query.shape[1] // key.shape[1]) > 1:
            key, value = (side.repeat_interleave(groups, dim=1) for side in (key, value))
        output: Tensor = _Attention.apply(query, key, value, keeps_output)
        return output, None

    return attend


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, keeps_output: bool) -> Tensor:
        sequences, heads, length, _ = query.shape
        output = query.new_empty(sequences, length, heads, value.shape[3])
        more = (output, query.new_empty(sequences, heads, length, dtype=torch.float32)) if keeps_output else ()
        ctx.save_for_backward(query, key, value, *more)
        return output

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (*(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3]), None)
