"""Attention that computes nothing: it makes and keeps the tensors that the real one makes and keeps.

No kernel that scoreonce uses keeps scores: flex and variable-length attention on a GPU and torch's kernel on a CPU keep
queries, keys, values, output and a log-normaliser per query and head; attention by products on a CPU keeps the first
three and recomputes. Where transformers' SDPA is what calls a kernel, it first repeats keys and values for each query
head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from scoreonce.pipeline.attention import row_kernel
from scoreonce.pipeline.attention.cpu_rows import RowMask
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
        if keeps_output and isinstance(attention_mask, RowMask):  # copies of what several groups attend to, too
            work = (attention_mask.groups, attention_mask.window, 1.0, attention_mask.kernel_masks)
            return row_kernel.attend(query, key, value, *work, kernel).transpose(1, 2), None
        return kernel(query, key, value).transpose(1, 2), None

    def kernel(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        """Heads before positions, as torch's."""
        made: Tensor = _Attention.apply(query, key, value, keeps_output)
        return made.transpose(1, 2)

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
