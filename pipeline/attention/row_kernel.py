"""Attention of query groups by torch's fused kernel: the fastest on a CPU where oneDNN's products are not.

The kernel skips what lies above the diagonal only where there are as many queries as keys; else it needs a mask.
Measured on two cores of Zen 3 (AVX2) with six heads of width 64 and some 1,000 positions in rows of 85 to 1,500: a
forward pass takes 0.5 to 0.9 of the time of batched products (`row_products`), forward and backward 0.45 to 0.8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from scoreonce.pipeline.attention.row_groups import QueryGroup

# Elements of one mask, 16 MiB in float32: a group with more takes its queries in blocks.
MASK_ELEMENTS = 1 << 22
FEWEST_QUERIES = 64  # of a block

Masks = dict[tuple[int, int, int | None, torch.dtype], Tensor]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: Sequence[QueryGroup],
    window: int | None,
    scale: float,
    masks: Masks,
    kernel: Callable[..., Tensor] = scaled_dot_product_attention,
) -> Tensor:
    """`(1, heads, length, d)` for queries, keys and values of one width d; 0 at positions of no group.

    `masks` keeps the masks made here for the next layer. `kernel` is called as torch's.
    """
    dtype = query.dtype
    # At least float32: on a CPU half precision is no faster here, and less exact.
    query, key, value = (side.to(torch.promote_types(dtype, torch.float32)) for side in (query, key, value))
    queries = _Pieces(query, [group.queries for group in groups])
    keys, values = (_Pieces(side, [places for group in groups for places in group.keys]) for side in (key, value))
    parts, stop = [], 0
    for group in groups:
        parts += [_nothing(query, group.queries.start - stop)]
        q, k, v = queries.at(group.queries), keys.at(*group.keys), values.at(*group.keys)
        parts += _attend(q, k, v, window, scale, masks, kernel)
        stop = group.queries.stop
    parts += [_nothing(query, query.shape[2] - stop)]
    # Heads after positions, as transformers wants it next: its `transpose(1, 2).contiguous()` then copies nothing.
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2).to(dtype)


class _Pieces:
    """A tensor cut at every end of `places`. The gradients of the pieces are put together in one operation."""

    def __init__(self, side: Tensor, places: Sequence[slice]) -> None:
        ends = sorted({0, side.shape[2], *(end for place in places for end in (place.start, place.stop))})
        self.pieces = side.split([stop - start for start, stop in pairwise(ends)], dim=2)
        self.index = {end: number for number, end in enumerate(ends)}

    def at(self, *places: slice) -> Tensor:
        """These positions, one after the other."""
        own = [piece for place in places for piece in self.pieces[self.index[place.start] : self.index[place.stop]]]
        return own[0] if len(own) == 1 else torch.cat(own, dim=2)


def _nothing(like: Tensor, positions: int) -> Tensor:
    return like.new_zeros(1, like.shape[1], positions, like.shape[3])


def _attend(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float, masks: Masks, kernel: Callable[..., Tensor]
) -> list[Tensor]:
    """The output of a group's queries, in blocks; the last query attends up to the last key."""
    before, gqa = k.shape[2] - q.shape[2], q.shape[1] != k.shape[1]
    if (window is None or window >= k.shape[2]) and before <= q.shape[2]:
        # As many queries as keys, so that the kernel computes half of the scores; a mask takes all of them.
        whole = torch.cat([_nothing(q, before), q], dim=2) if before else q
        output = kernel(whole, k, v, is_causal=True, scale=scale, enable_gqa=gqa)
        return [output[:, :, before:] if before else output]
    outputs = []
    for own, seen in _blocks(q.shape[2], k.shape[2], window):
        size = (own.stop - own.start, seen.stop - seen.start, window, q.dtype)
        if size not in masks:
            masks[size] = _mask(*size)
        sides = (q[:, :, own], k[:, :, seen], v[:, :, seen])
        outputs.append(kernel(*sides, attn_mask=masks[size], scale=scale, enable_gqa=gqa))
    return outputs


def _blocks(queries: int, keys: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Consecutive queries of a group and the keys that any of them attends to."""
    block, before = max(FEWEST_QUERIES, MASK_ELEMENTS // keys), keys - queries
    for start in range(0, queries, block):
        stop = min(start + block, queries)
        yield slice(start, stop), slice(0 if window is None else max(0, before + start + 1 - window), before + stop)


def _mask(queries: int, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """`(queries, keys)`: 0 where a query attends to a key, else -inf; the last query stands at the last key."""
    before = keys - queries
    mask = torch.full((queries, keys), float("-inf"), dtype=dtype).triu_(before + 1)
    if window is not None:
        outside = torch.ones(queries, keys, dtype=torch.bool).tril_(before - window)
        mask.masked_fill_(outside, float("-inf"))
    return mask
