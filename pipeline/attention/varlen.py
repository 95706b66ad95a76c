"""Attention of packed prompt rows on a GPU by torch's variable-length flash attention.

The kernel takes no mask, only where each causal run begins and ends. Queries and keys may have different ends, and a
run with fewer queries than keys aligns its queries with the last keys. So a prompt and its first completion are one
run, and each further completion is a run whose keys are a copy of the prompt's and its own. No prompt is computed
twice; only its keys and values are copied.

Dimensions: length = positions of the packed sequence, runs, keys = keys of all runs, heads, d = width of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import PreTrainedModel

from scoreonce.pipeline.attention.last_layer import replace_attention
from scoreonce.pipeline.batches.device_transfer import moved
from scoreonce.pipeline.batches.prompt_rows import PromptRow

# Of the attention implementation. Not with "flash" in it: transformers takes such names for its own.
NAME = "scoreonce_sequences"
# Until torch 2.12 the kernel took fewer key heads without being told.
GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


class VarlenMask(Tensor):
    """A packed sequence as causal runs; of shape `(1, 1, length, length)`, as transformers passes only masks on."""

    key_positions: Tensor  # (keys,) int64 positions in the packed sequence, run by run
    query_ends: Tensor  # (runs + 1,) int32, from 0
    key_ends: Tensor  # (runs + 1,) int32, from 0
    most_queries: int
    most_keys: int
    window: int | None

    # Any tensor derived from it is a plain one, which `_attend` refuses.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, rows: Sequence[PromptRow], window: int | None, device: torch.device) -> VarlenMask:
        """The runs of packed `rows`; with a `window`, a position attends to so many keys at most."""
        queries: list[int] = []
        key_positions: list[np.ndarray[Any, np.dtype[np.int64]]] = []
        stop = 0
        for row in rows:
            start, positions = stop, [len(completion) - 1 for completion in row.completions]
            stop = start + len(row.prompt) + positions[0]
            prompt = np.arange(start, start + len(row.prompt))
            queries.append(stop - start)
            key_positions.append(np.arange(start, stop))
            for own in filter(None, positions[1:]):  # a completion of one token has no position of its own
                queries.append(own)
                key_positions.append(np.concatenate([prompt, np.arange(stop, stop + own)]))
                stop += own
        keys = [len(part) for part in key_positions]
        whole = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device).expand(1, 1, stop, stop)
        made: VarlenMask = torch.Tensor._make_subclass(cls, whole)
        made.key_positions = moved(torch.from_numpy(np.concatenate(key_positions)), device)
        made.query_ends, made.key_ends = (moved(_ends(lengths), device) for lengths in (queries, keys))
        made.most_queries, made.most_keys, made.window = max(queries), max(keys), window
        return made


def _ends(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


def switch_on(model: PreTrainedModel) -> None:
    """Make a model attend by `VarlenMask`. Raises `ValueError` where its attention cannot be replaced."""
    replace_attention(model, NAME, _attend)


def _attend(
    module: nn.Module,
    query: Tensor,  # (1, heads, length, d)
    key: Tensor,  # (1, key heads, length, d)
    value: Tensor,  # (1, key heads, length, d)
    attention_mask: VarlenMask,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    dropout: float = 0.0,
    **_: Any,  # transformers passes more to every implementation; the probe finds what would matter
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: `(1, length, heads, d)`, and no weights."""
    if not isinstance(attention_mask, VarlenMask):
        raise ValueError("variable-length attention takes a VarlenMask only")
    if softcap is not None or s_aux is not None or dropout:
        raise ValueError("variable-length flash attention has no soft-cap, no sinks and no dropout")
    mask = attention_mask
    keys, values = (side[0].transpose(0, 1).index_select(0, mask.key_positions) for side in (key, value))
    output: Tensor = varlen_attn(  # type: ignore[assignment]  # a pair only where asked for
        query[0].transpose(0, 1),
        keys,
        values,
        mask.query_ends,
        mask.key_ends,
        mask.most_queries,
        mask.most_keys,
        scale=scaling,
        window_size=(-1 if mask.window is None else mask.window - 1, 0),
        **(GROUPED if query.shape[1] != key.shape[1] else {}),
    )
    return output.unsqueeze(0), None
