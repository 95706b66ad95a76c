"""Attention of query groups as batched matrix products: the fastest where oneDNN multiplies them (`cpu_matmul`).

Dimensions: heads, key heads (each shared by a group of heads), length = positions of the sequence, d = width of a head
(values may have another width).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from scoreonce.pipeline.attention.cpu_matmul import fast_batches
from scoreonce.pipeline.attention.row_groups import QueryGroup
from scoreonce.pipeline.batches.prompt_rows import CPU_MULTIPLE, round_up

# Queries per block, a multiple of CPU_MULTIPLE: scores above a block's diagonal are computed in vain, so blocks are
# small. Bytes of scores at once, which decide how many heads a block takes. Measured on two cores of Zen 5, where rows
# of 230, 500 and 1,000 positions take 0.7, 0.5 and 0.5 of the time of torch's kernel, backward included: 128 to 256
# queries are equally fast, and 2 to 4 MiB of scores; with 1 MiB, rows of 500 positions take a fifth longer.
QUERY_BLOCK = 192
SCORE_BYTES = 4 << 20
# A score whose softmax is 0 beside any real one. Not -inf: padding queries attend to padding keys alone, and a softmax
# of nothing but -inf is NaN.
UNSEEN = -1e30


def attend(
    query: Tensor, key: Tensor, value: Tensor, groups: list[QueryGroup], window: int | None, scale: float
) -> Tensor:
    """`(1, heads, length, d)`; 0 at positions of no group."""
    output: Tensor = _RowAttention.apply(query, key, value, groups, window, scale)
    return output


class _RowAttention(torch.autograd.Function):
    """Causal attention of each group. The backward pass recomputes the probabilities, so that no scores are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        groups: list[QueryGroup],
        window: int | None,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.groups, ctx.window, ctx.scale = groups, window, scale
        _, heads, length, _ = query.shape
        # Heads after positions, as transformers wants it next: its `transpose(1, 2).contiguous()` then copies nothing.
        # Unused output is 0.
        output = query.new_zeros(1, length, heads, value.shape[3])
        with fast_batches():
            for group in groups:
                q, k, v = _operands(query, key, value, group, scale)
                found = q.new_empty(*q.shape[:3], v.shape[2])
                for own, seen in _blocks(q, k, window):
                    probs = _probabilities(q[own], k[seen], _padding_in(seen, group), window)
                    found[own] = torch.bmm(probs, v[seen]).view_as(found[own])
                output[0, group.queries] = found.flatten(0, 1)[:, -group.query_count :].transpose(0, 1)
        return output.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        wide = _wide(query.dtype)
        d_query = torch.zeros(query.shape, dtype=wide)
        d_key, d_value = (torch.zeros(side.shape, dtype=wide) for side in (key, value))
        with fast_batches():
            for group in ctx.groups:
                q, k, v = _operands(query, key, value, group, ctx.scale)
                up = _gathered(upstream, (group.queries,), q.shape[2]).unflatten(0, q.shape[:2])
                d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
                for own, seen in _blocks(q, k, ctx.window):
                    flat, up_flat = q[own].flatten(1, 2), up[own].flatten(1, 2)
                    probs = _probabilities(q[own], k[seen], _padding_in(seen, group), ctx.window)
                    d_scores = torch.bmm(up_flat, v[seen].mT, out=_scratch("gradient", probs.shape, wide))
                    torch.ops.aten._softmax_backward_data.out(d_scores, probs, 2, wide, grad_input=d_scores)
                    d_q[own] = torch.bmm(d_scores, k[seen]).view_as(d_q[own])
                    d_k[seen] += torch.bmm(d_scores.mT, flat)
                    d_v[seen] += torch.bmm(probs.mT, up_flat)
                d_query[0, :, group.queries] = d_q.mul_(ctx.scale).flatten(0, 1)[:, -group.query_count :]
                start = group.padding
                for places in group.keys:
                    stop = start + places.stop - places.start
                    d_key[0, :, places] += d_k[:, start:stop]
                    d_value[0, :, places] += d_v[:, start:stop]
                    start = stop
        return d_query.to(query.dtype), d_key.to(key.dtype), d_value.to(value.dtype), None, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    """At least float32: on a CPU half precision is no faster here, and less exact."""
    return torch.promote_types(dtype, torch.float32)


def _operands(
    query: Tensor, key: Tensor, value: Tensor, group: QueryGroup, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A group's scaled queries, (key heads, heads per key head, queries, d), keys and values, (key heads, keys, d).

    Both are padded in front to a multiple of CPU_MULTIPLE.
    """
    q = _gathered(query, (group.queries,), round_up(group.query_count, CPU_MULTIPLE)).mul_(scale)
    k, v = (_gathered(side, group.keys, group.padding + group.key_count) for side in (key, value))
    return q.unflatten(0, (len(k), -1)), k, v


def _gathered(side: Tensor, places: Sequence[slice], size: int) -> Tensor:
    """`(heads, size, d)`: these positions of `side` (1, heads, length, d), one after the other, 0 in front."""
    _, heads, _, d = side.shape
    made = torch.empty(heads, size, d, dtype=_wide(side.dtype))
    stop = size
    for place in reversed(places):
        start = stop - (place.stop - place.start)
        made[:, start:stop] = side[0, :, place]
        stop = start
    made[:, :stop] = 0
    return made


def _blocks(q: Tensor, k: Tensor, window: int | None) -> Iterator[tuple[tuple[slice, ...], tuple[slice, slice]]]:
    """For each block the index of its queries in (key heads, group, queries, d) and keys in (key heads, keys, d).

    Keys start where the window of the first query does, or up to CPU_MULTIPLE - 1 before.
    """
    (heads, group, queries, _), before = q.shape, k.shape[1] - q.shape[2]
    for start in range(0, queries, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, queries)
        first = 0 if window is None else max(0, before + start - (window - 1)) // CPU_MULTIPLE * CPU_MULTIPLE
        seen = slice(first, before + stop)
        several = max(1, SCORE_BYTES // (group * (stop - start) * (before + stop - first) * q.element_size()))
        for head in range(0, heads, several):
            some = slice(head, head + several)
            yield (some, slice(None), slice(start, stop)), (some, seen)


def _padding_in(seen: tuple[slice, slice], group: QueryGroup) -> int:
    """How many of a block's keys are padding."""
    return max(0, group.padding - int(seen[1].start))


def _probabilities(q: Tensor, k: Tensor, padding: int, window: int | None) -> Tensor:
    """`(heads, group * queries, keys)` for queries (heads, group, queries, d); the last one attends up to the last key.

    No query attends to the first `padding` keys, nor to those `window` or more before it. The next call reuses the
    memory.
    """
    heads, group, queries, _ = q.shape
    scores = _scratch("scores", (heads, group * queries, k.shape[1]), q.dtype)
    torch.bmm(q.flatten(1, 2), k.mT, out=scores)
    scores.unflatten(1, (group, queries))[..., -queries:] += _after_diagonal(queries, q.dtype)
    scores[..., :padding] = UNSEEN
    outside = 0 if window is None else k.shape[1] - window  # keys before the window of the last query
    if outside > 0:
        scores.unflatten(1, (group, queries))[..., :outside].masked_fill_(_before_window(queries, outside), UNSEEN)
    return torch.softmax(scores, dim=2, out=scores)


_own = threading.local()


def _scratch(name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory of this thread, reused up to SCORE_BYTES: fetching fresh pages costs more than the product itself."""
    elements = prod(shape)
    if elements * dtype.itemsize > SCORE_BYTES:
        return torch.empty(shape, dtype=dtype)
    kept: Tensor | None = getattr(_own, name, None)
    if kept is None:
        with torch.inference_mode(False):  # an inference tensor could not be written to outside of that mode
            kept = torch.empty(SCORE_BYTES, dtype=torch.uint8)
        setattr(_own, name, kept)
    return kept.view(dtype)[:elements].view(shape)


@lru_cache(maxsize=QUERY_BLOCK)
def _after_diagonal(length: int, dtype: torch.dtype) -> Tensor:
    """`(length, length)`: -inf for the keys after a query, 0 elsewhere."""
    return torch.full((length, length), float("-inf"), dtype=dtype).triu_(1)


@lru_cache(maxsize=QUERY_BLOCK)
def _before_window(queries: int, outside: int) -> Tensor:
    """`(queries, outside)` bool: of the last query all these keys lie before its window, of each earlier one fewer."""
    return torch.ones(queries, outside, dtype=torch.bool).tril_(outside - queries)
