"""Attention of packed prompt rows on a GPU: prefix sharing and packing as one block-sparse mask, made on the device.

What a position may see in prompt rows is at most two runs of places: its own segment up to itself, and its prompt.
Both are found with a few element-wise operations from what a batch already holds, sliding windows cut into them, and
which 128 x 128 blocks of the attention matrix are empty, partial or whole follows from them: nothing of size length x
length is ever made, nothing waits for the device, and every kind of layer runs the same compiled kernel.

Dimensions: lines, length as in `rows`; blocks = length / BLOCK.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import PreTrainedModel

from scoreonce.pipeline.attention import compile_limits
from scoreonce.pipeline.attention.last_layer import blocks, exchange_attention
from scoreonce.pipeline.batches.prompt_rows import FLEX_BLOCK, PADDING, Batch

NAME = "scoreonce_flex"  # of the attention implementation, as transformers knows it


class Visible(NamedTuple):
    """The places that each position sees: from `own` to itself, and from `first` to before `last` of its prompt."""

    own: Tensor  # (lines, length) int32
    first: Tensor  # (lines, length) int32
    last: Tensor  # (lines, length) int32; 0, as `first`, where nothing of a prompt is seen


def visible(batch: Batch, window: int | None = None) -> Visible:
    """What `rows.attention_mask` says, as two runs per position. Rows must be laid out as `rows.collate` does."""
    places = torch.arange(batch.segments.shape[1], dtype=torch.int32, device=batch.segments.device)
    padding, position = batch.segments == PADDING, batch.position_ids.int()
    begins = torch.ones_like(padding)
    begins[:, 1:] = batch.segments[:, 1:] != batch.segments[:, :-1]
    start = _last_place(places, begins)
    first = _last_place(places, begins & (batch.segments == batch.prompts))  # a prompt stands before its completions
    # Positions restart after the prompt, so the first of a completion is the length of its prompt.
    last = first + position - (places - start)
    own = start
    if window is not None:
        own = torch.maximum(start, places - (window - 1))
        first = first + (position - (window - 1)).clamp(min=0)
    own = torch.where(padding, places, own)
    # The first completion's run goes on from its prompt's: as one, the blocks across both are whole.
    own, seen = torch.where((last == own) & ~padding, first, own), (first < last) & ~padding
    return Visible(own, torch.where(seen, first, 0), torch.where(seen, last, 0))


def _last_place(places: Tensor, where: Tensor) -> Tensor:
    """The nearest place at or before each for which `where` (lines, length) holds."""
    return torch.where(where, places, 0).cummax(1).values


def block_mask(batch: Batch, window: int | None = None) -> BlockMask:
    """The mask of a batch whose length is a multiple of BLOCK, in the form that flex attention takes."""
    own, first, last = visible(batch, window)
    lines, length = own.shape
    places = torch.arange(length, dtype=torch.int32, device=own.device).unsqueeze(1)
    begin = torch.arange(0, length, FLEX_BLOCK, dtype=torch.int32, device=own.device)  # (blocks,)
    end = begin + FLEX_BLOCK
    own_, first_, last_ = own.unsqueeze(2), first.unsqueeze(2), last.unsqueeze(2)
    some = ((own_ < end) & (places >= begin)) | ((first_ < end) & (last_ > begin))  # (lines, length, blocks)
    whole = ((own_ <= begin) & (places >= end - 1)) | ((first_ <= begin) & (last_ >= end))
    some, whole = (each.view(lines, len(begin), FLEX_BLOCK, len(begin)) for each in (some, whole))
    full = whole.all(2)
    partial = some.any(2) & ~full  # (lines, blocks, blocks); a block that two runs fill together is masked in vain

    def mask_mod(line: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_own = (own[line, query] <= key) & (key <= query)
        return in_own | ((first[line, query] <= key) & (key < last[line, query]))

    return BlockMask.from_kv_blocks(
        *_ordered(partial), *_ordered(full), BLOCK_SIZE=FLEX_BLOCK, mask_mod=mask_mod, seq_lengths=(length, length)
    )


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of each row are set, `(lines, 1, blocks)`, and all their numbers, these first."""
    dense = blocks.unsqueeze(1).int()
    return dense.sum(3, dtype=torch.int32), dense.argsort(dim=3, descending=True, stable=True).int()


def switch_on(model: PreTrainedModel) -> None:
    """Make a model attend through `block_mask`. Raises `ValueError` where its attention cannot be exchanged."""
    compile_limits.make_room()
    exchange_attention(model, NAME, _attend)


def compile_blocks(model: PreTrainedModel, backend: str = "inductor") -> None:
    """Compile each transformer block in place, with its attention: norms, rotations and gates become few kernels.

    Blocks are alike, so one compilation serves all; lines of another length take another.
    """
    compile_limits.make_room()
    for block in blocks(model):
        block.compile(dynamic=False, backend=backend)


def _attend(
    module: nn.Module,
    query: Tensor,  # (lines, heads, length, width)
    key: Tensor,  # (lines, key heads, length, width)
    value: Tensor,  # (lines, key heads, length, width)
    attention_mask: BlockMask,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    dropout: float = 0.0,
    **_: Any,  # what transformers hands to every implementation; what matters and is not known, the probe sees
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: `(lines, length, heads, width)`, and no weights."""
    if not isinstance(attention_mask, BlockMask):
        raise ValueError("attention that is switched to block masks takes no other")
    if s_aux is not None or dropout:
        raise ValueError("flex attention has no sinks and no dropout")
    output = _kernel(query)(
        query,
        key,
        value,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=attention_mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


def _kernel(query: Tensor) -> Callable[..., Tensor]:
    """The compiled kernel on a GPU; plain `flex_attention` inside a block that is compiled itself, and on a CPU."""
    plain: Callable[..., Tensor] = flex_attention
    return _compiled() if query.is_cuda and not torch.compiler.is_compiling() else plain


@cache
def _compiled() -> Callable[..., Tensor]:
    # Lengths come in few sizes (`rows.collate`), so each gets a kernel of its own: dynamic ones cost bounds checks, and
    # one release or another specialises on them all the same. A whole graph, so that it never runs unfused.
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _capped(softcap: float) -> Callable[..., Tensor]:
    def score_mod(score: Tensor, line: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return score_mod
