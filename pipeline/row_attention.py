"""Attention of packed prompt rows on a CPU, row by row: nothing is computed between rows.

A kernel with a dense mask computes every pair of positions of a line and then hides most of them. Here a line's mask is
a `RowMask`: scaled dot-product attention finds the rows in it and attends within each one; whatever else looks at it
finds the dense mask.

Dimensions: heads, length = positions of the line or of one row, d = width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from scoreonce.pipeline.products import matmul
from scoreonce.pipeline.rows import Batch, PromptRow, attention_mask

# Rows of this many positions go through `_Blocks`, shorter ones through torch's kernel. Measured on two cores of Zen 5:
# a row of 1,536 positions takes `_Blocks` a third of the kernel's time, half of it with backward; HH pairs train alike
# with 448 and 640, 8 % slower with 320 and 4 % slower with no `_Blocks` at all.
LONG_ROW = 512
# Queries of one block of `_Blocks`: what lies above a block's diagonal is computed for nothing.
BLOCK = 256


class Span(NamedTuple):
    """A prompt row as lengths: its prompt, and the positions of each of its completions."""

    prompt: int
    completions: tuple[int, ...]

    @property
    def length(self) -> int:
        """Positions of the row."""
        return self.prompt + sum(self.completions)

    def bias(self) -> Tensor:
        """What to add to the scores, `(length, length)` float32: 0 where a position may look, -inf elsewhere."""
        bias = torch.full((self.length, self.length), float("-inf"))
        start = self.prompt + self.completions[0]
        bias[:start, :start].triu_(1)  # the prompt and its first completion follow each other
        for positions in self.completions[1:]:
            stop = start + positions
            bias[start:stop, : self.prompt] = 0
            bias[start:stop, start:stop].triu_(1)
            start = stop
        return bias


class RowMask(Tensor):
    """The attention mask of one packed line, `(1, 1, length, length)` bool, known by its rows."""

    batch: Batch
    spans: list[Span]
    asks: list[int]  # of each row, the first position whose answer is read

    @classmethod
    def of(cls, rows: Sequence[PromptRow], batch: Batch) -> RowMask:
        """The mask of `batch`, the packed `rows`."""
        length = batch.input_ids.shape[1]
        mask = torch.Tensor._make_subclass(cls, torch.zeros(1, 1, 1, 1, dtype=torch.bool).expand(1, 1, length, length))
        mask.batch = batch
        mask.spans = [Span(len(row.prompt), tuple(len(c) - 1 for c in row.completions)) for row in rows]
        mask.asks = [0] * len(rows)
        return mask

    def where_read(self) -> RowMask:
        """The same mask for queries at the positions that predict a token: from the last of each prompt on.

        Attention answers with 0 at the others.
        """
        with torch._C.DisableTorchFunctionSubclass():
            mask = torch.Tensor._make_subclass(RowMask, self.as_subclass(Tensor))
        vars(mask).update(vars(self))
        mask.asks = [span.prompt - 1 for span in self.spans]
        return mask

    @cached_property
    def read(self) -> Tensor:
        """The positions of the line whose answers are read, int64."""
        ends = list(accumulate(span.length for span in self.spans))
        places = zip(ends, self.spans, self.asks, strict=True)
        return torch.cat([torch.arange(end - span.length + ask, end) for end, span, ask in places])

    @cached_property
    def dense(self) -> Tensor:
        """The same mask as a plain tensor."""
        return attention_mask(self.batch)

    @cached_property
    def biases(self) -> list[Tensor | None]:
        """For each row that torch's kernel attends in, what it adds to the scores."""
        return [span.bias() if span.length < LONG_ROW else None for span in self.spans]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Attend by rows; answer about shape and dtype; for everything else stand back for the dense mask."""
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            return _attend(*args, **kwargs)
        if func is Tensor.__getitem__ and _is_all(args[1], args[0].shape):
            return args[0]
        with torch._C.DisableTorchFunctionSubclass():
            if getattr(func, "__name__", "") in ("__get__", "dim", "size"):
                return func(*args, **kwargs)
            return func(*map(_dense, args), **{name: _dense(value) for name, value in kwargs.items()})


def _dense(value: Any) -> Any:
    return value.dense if isinstance(value, RowMask) else value


def _is_all(index: Any, shape: torch.Size) -> bool:
    """Whether `index` takes everything of `shape`: transformers cuts masks to the length of the keys."""
    return (
        isinstance(index, tuple)
        and len(index) == len(shape)
        and all(isinstance(part, slice) and part.indices(n) == (0, n, 1) for part, n in zip(index, shape, strict=True))
    )


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What `scaled_dot_product_attention` gives with the dense mask: `(1, heads, length, d)`."""
    if not isinstance(attn_mask, RowMask) or dropout_p:
        return scaled_dot_product_attention(
            query, key, value, _dense(attn_mask), dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (side.repeat_interleave(groups, dim=1) for side in (key, value))
    spans, asks = attn_mask.spans, attn_mask.asks
    lengths = [span.length for span in spans]
    # float32 at least: torch's bfloat16 kernel is slower on a CPU, and less exact.
    wide = torch.promote_types(query.dtype, torch.float32)
    # Of each row the queries that nobody reads, none in most blocks, and those that somebody does.
    halves = list(chain.from_iterable((ask, length - ask) for ask, length in zip(asks, lengths, strict=True)))
    queries = query.to(wide).split(halves, dim=2)[1::2]
    keys, values = (side.to(wide).split(lengths, dim=2) for side in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    none = query.new_zeros(1, 1, 1, 1, dtype=wide).expand(1, query.shape[1], max(asks), query.shape[3])
    rows: list[Tensor] = []
    for q, k, v, span, ask, bias in zip(queries, keys, values, spans, asks, attn_mask.biases, strict=True):
        if ask:
            rows.append(none[:, :, :ask])
        if bias is None:
            rows.append(_blocks(q, k, v, span, scale))
        else:
            rows.append(scaled_dot_product_attention(q, k, v, bias[ask:].to(wide), scale=scale))
    # In the layout that transformers wants next, so that its `transpose(1, 2).contiguous()` copies nothing.
    return torch.cat([row.transpose(1, 2) for row in rows], dim=1).transpose(1, 2).to(query.dtype)


def _blocks(query: Tensor, key: Tensor, value: Tensor, span: Span, scale: float) -> Tensor:
    """Attention of one row's last queries, `(1, heads, queries, d)`: completions but the first see the prompt apart."""
    first, *others = span.completions
    query, key, value = query[0], key[0], value[0]
    queries = query.split([query.shape[1] - sum(others), *others], dim=1)
    parts = [side.split([span.prompt + first, *others], dim=1) for side in (key, value)]
    prompts = [side[:, : span.prompt] for side in (key, value)]
    outputs = [_Blocks.apply(queries[0], *(part[0] for part in parts), scale)]
    for q, k, v in zip(queries[1:], *(part[1:] for part in parts), strict=True):
        keys, values = (torch.cat(pair, dim=1) for pair in zip(prompts, (k, v), strict=True))
        outputs.append(_Blocks.apply(q, keys, values, scale))
    return torch.cat(outputs, dim=1).unsqueeze(0)


class _Blocks(torch.autograd.Function):
    """Causal attention whose last query sees the last key: query (heads, n, d), key and value (heads, m, d), m >= n.

    Blocks of queries, a product per head, probabilities recomputed in backward: nothing of size n x m is kept.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        query, key, value = (query * scale).contiguous(), key.contiguous(), value.contiguous()
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        output = torch.empty_like(query)
        for head, own, seen in _blocks_of(query, key):
            probs = _probabilities(query[head, own], key[head, seen])
            output[head, own] = matmul(probs, value[head, seen])
        return output

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        upstream = upstream.contiguous()
        d_query = torch.empty_like(query)
        # Transposed, so that the products below copy a block of queries and not one of scores.
        d_key, d_value = torch.zeros_like(key.mT), torch.zeros_like(value.mT)
        for head, own, seen in _blocks_of(query, key):
            q, up = query[head, own], upstream[head, own]
            probs = _probabilities(q, key[head, seen])
            d_scores = torch._softmax_backward_data(matmul(up, value[head, seen].t()), probs, 1, probs.dtype)
            d_query[head, own] = matmul(d_scores, key[head, seen])
            d_key[head, :, seen] += matmul(q.t(), d_scores)
            d_value[head, :, seen] += matmul(up.t(), probs)
        return d_query.mul_(ctx.scale), d_key.mT, d_value.mT, None


def _blocks_of(query: Tensor, key: Tensor) -> list[tuple[int, slice, slice]]:
    """`(head, queries, keys)` of each block."""
    heads, length = query.shape[:2]
    before = key.shape[1] - length
    ends = [min(start + BLOCK, length) for start in range(0, length, BLOCK)]
    return [
        (head, slice(start, stop), slice(0, before + stop))
        for head in range(heads)
        for start, stop in zip(range(0, length, BLOCK), ends, strict=True)
    ]


def _probabilities(query: Tensor, key: Tensor) -> Tensor:
    scores, length = matmul(query, key.t()), len(query)
    scores[:, -length:] += _after_diagonal(length, scores.dtype)
    return torch.softmax(scores, dim=1)


@lru_cache(maxsize=BLOCK)
def _after_diagonal(length: int, dtype: torch.dtype) -> Tensor:
    """`(length, length)`: -inf for the keys behind a query, 0 elsewhere."""
    return torch.full((length, length), float("-inf"), dtype=dtype).triu_(1)
