"""Attention of packed prompt rows on a GPU: prefix sharing and packing as one block-sparse mask, made on the device.

A position attends to at most two runs of keys: its own segment up to itself, and its prompt. Both come from the batch
by a few element-wise operations, sliding windows shorten them, and they decide which 128 x 128 blocks of the attention
matrix are empty, partial or full. Nothing of size length x length is made, nothing waits for the device, and every kind
of layer runs the same compiled kernel.

Dimensions: sequences, length as in `prompt_rows`; blocks = length / FLEX_BLOCK.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention
from transformers import PreTrainedModel

from scoreonce.pipeline.attention import compile_limits
from scoreonce.pipeline.attention.last_layer import blocks, replace_attention
from scoreonce.pipeline.batches.prompt_rows import FLEX_BLOCK, PADDING, Batch

NAME = "scoreonce_flex"  # of the attention implementation in transformers
SMALLEST_WIDTH = 16  # of a head in the kernel, which rounds wider ones up to a power of two itself


class KeyRuns(NamedTuple):
    """The keys that each position attends to: from `own` to itself, and of its prompt from `first` to before `last`."""

    own: Tensor  # (sequences, length) int32
    first: Tensor  # (sequences, length) int32
    last: Tensor  # (sequences, length) int32; `first` and `last` are 0 where no key of the prompt is attended to


def key_runs(batch: Batch, window: int | None = None) -> KeyRuns:
    """The mask of `prompt_rows.attention_mask` as two runs per position, for a batch made by `prompt_rows.collate`."""
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
    # The first completion directly follows its prompt: merged into one run, blocks that span both count as full.
    own, seen = torch.where((last == own) & ~padding, first, own), (first < last) & ~padding
    return KeyRuns(own, torch.where(seen, first, 0), torch.where(seen, last, 0))


def _last_place(places: Tensor, where: Tensor) -> Tensor:
    """The last place up to each position where `where` (sequences, length) holds."""
    return torch.where(where, places, 0).cummax(1).values


def block_mask(batch: Batch, window: int | None = None) -> BlockMask:
    """Flex attention's mask for a batch whose length is a multiple of FLEX_BLOCK."""
    own, first, last = key_runs(batch, window)
    sequences, length = own.shape
    places = torch.arange(length, dtype=torch.int32, device=own.device).unsqueeze(1)
    begin = torch.arange(0, length, FLEX_BLOCK, dtype=torch.int32, device=own.device)  # (blocks,)
    end = begin + FLEX_BLOCK
    own_, first_, last_ = own.unsqueeze(2), first.unsqueeze(2), last.unsqueeze(2)
    some = ((own_ < end) & (places >= begin)) | ((first_ < end) & (last_ > begin))  # (sequences, length, blocks)
    whole = ((own_ <= begin) & (places >= end - 1)) | ((first_ <= begin) & (last_ >= end))
    some, whole = (each.view(sequences, len(begin), FLEX_BLOCK, len(begin)) for each in (some, whole))
    full = whole.all(2)
    partial = (
        some.any(2) & ~full
    )  # (sequences, blocks, blocks); a block filled by two runs together counts as partial: slower, not wrong

    def mask_mod(sequence: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_own = (own[sequence, query] <= key) & (key <= query)
        return in_own | ((first[sequence, query] <= key) & (key < last[sequence, query]))

    return BlockMask.from_kv_blocks(
        *_ordered(partial), *_ordered(full), BLOCK_SIZE=FLEX_BLOCK, mask_mod=mask_mod, seq_lengths=(length, length)
    )


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of each row are set, `(sequences, 1, blocks)`, and the numbers of all blocks, set ones first."""
    dense = blocks.unsqueeze(1).int()
    return dense.sum(3, dtype=torch.int32), dense.argsort(dim=3, descending=True, stable=True).int()


def switch_on(model: PreTrainedModel) -> None:
    """Make a model attend through `block_mask`. Raises `ValueError` where its attention cannot be replaced."""
    compile_limits.make_room()
    replace_attention(model, NAME, _attend)


def compile_blocks(model: PreTrainedModel, backend: str = "inductor") -> None:
    """Compile each transformer block in place, attention included: norms, rotations and gates become a few kernels.

    All blocks have the same code, so one compilation serves them; each sequence length needs one of its own.
    """
    compile_limits.make_room()
    for block in blocks(model):
        block.compile(dynamic=False, backend=backend)


def _attend(
    module: nn.Module,
    query: Tensor,  # (sequences, heads, length, width)
    key: Tensor,  # (sequences, key heads, length, width)
    value: Tensor,  # (sequences, key heads, length, width)
    attention_mask: BlockMask,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    dropout: float = 0.0,
    **_: Any,  # transformers passes more to every implementation; the probe finds what would matter
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: `(sequences, length, heads, width)`, and no weights."""
    if not isinstance(attention_mask, BlockMask):
        raise ValueError("flex attention takes a BlockMask only")
    if dropout:
        raise ValueError("flex attention has no dropout")
    width, scale = value.shape[-1], query.shape[-1] ** -0.5 if scaling is None else scaling
    output = _kernel(query)(
        *map(_widened, (query, key, value)),
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=attention_mask,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=None if s_aux is None else AuxRequest(lse=True),
    )
    if s_aux is not None:
        output, normalisers = output
        output = output * share_beside_sinks(normalisers.lse, s_aux).unsqueeze(-1).to(output.dtype)
    return output[..., :width].transpose(1, 2).contiguous(), None


def _widened(heads: Tensor) -> Tensor:
    """Heads with zeros up to the kernel's smallest width, which change no score and are cut off the output."""
    missing = SMALLEST_WIDTH - heads.shape[-1]
    return nn.functional.pad(heads, (0, missing)) if missing > 0 else heads


def share_beside_sinks(
    lse: Tensor,  # (sequences, heads, length)
    sinks: Tensor,  # (heads,)
) -> Tensor:
    """The share of a softmax that its keys have beside a sink: Z / (Z + e^s), of `lse` = log Z and a head's sink s.

    Attention without sinks times this share is attention with them: a sink takes probability and has no value (gpt-oss,
    Xiao et al. 2023, arXiv 2309.17453).
    """
    return torch.sigmoid(lse - sinks.to(lse.dtype).unsqueeze(-1))


def _kernel(query: Tensor) -> Callable[..., Any]:
    """The compiled kernel on a GPU; plain `flex_attention` inside a block that is compiled itself, and on a CPU."""
    plain: Callable[..., Any] = flex_attention
    return _compiled() if query.is_cuda and not torch.compiler.is_compiling() else plain


@cache
def _compiled() -> Callable[..., Any]:
    # Lengths come in few sizes (`prompt_rows.collate`), so each gets its own kernel: dynamic shapes cost bounds checks,
    # and some releases specialise anyway. `fullgraph`, as a graph break would run it unfused without notice.
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _capped(softcap: float) -> Callable[..., Tensor]:
    def score_mod(score: Tensor, sequence: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return score_mod
