"""Attention of packed prompt rows on a CPU, row by row: nothing is computed between rows.

A kernel with a dense mask computes every pair of positions of a line and then hides most of them. Here a line's mask is
a `RowMask`: scaled dot-product attention finds the rows in it and attends within each one; whatever else looks at it
finds the dense mask.

Dimensions: heads, key heads (a number of heads in a group shares each), length = positions of the line, d = width of a
head (a value's may be another).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from scoreonce.pipeline.attention.cpu_matmul import fast_batches
from scoreonce.pipeline.batches.prompt_rows import CPU_MULTIPLE, Batch, PromptRow, attention_mask, round_up

# Queries that are multiplied at once, a multiple of CPU_MULTIPLE: what lies above a block's diagonal is computed for
# nothing. And bytes of scores at once, for as many heads as they allow. Measured on two cores of Zen 5, where rows of
# 230, 500 and 1,000 positions take 0.7, 0.5 and 0.5 of the time of torch's kernel, backward included: blocks of 128 to
# 256 queries are alike, and scores of 2 to 4 MiB; with 1 MiB rows of 500 positions take a fifth longer.
QUERY_BLOCK = 192
SCORE_BYTES = 4 << 20
# A score whose exponential is 0 beside any other's; not -inf, as there are queries for nothing that see nothing else.
UNSEEN = -1e30


class Span(NamedTuple):
    """A prompt row as lengths: its prompt, and the positions of each of its completions."""

    prompt: int
    completions: tuple[int, ...]

    @property
    def length(self) -> int:
        """Positions of the row."""
        return self.prompt + sum(self.completions)


class QueryGroup(NamedTuple):
    """Queries that stand together, and the places of all that the last of them sees, itself last."""

    queries: slice
    keys: tuple[slice, ...]

    @property
    def asked(self) -> int:
        """How many queries."""
        return int(self.queries.stop - self.queries.start)

    @property
    def seen(self) -> int:
        """How many keys."""
        return sum(places.stop - places.start for places in self.keys)

    @property
    def padding(self) -> int:
        """How many keys are missing for a round number."""
        return round_up(self.seen, CPU_MULTIPLE) - self.seen


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
        mask.batch, mask.spans = self.batch, self.spans
        mask.asks = [span.prompt - 1 for span in self.spans]
        return mask

    @cached_property
    def read(self) -> Tensor:
        """The positions of the line whose answers are read, int64, and some others where that makes a round number."""
        asked = torch.zeros(self.shape[-1], dtype=torch.bool)
        for end, span, ask in zip(accumulate(span.length for span in self.spans), self.spans, self.asks, strict=True):
            asked[end - span.length + ask : end] = True
        # And so many others that the number is a round one.
        count = int(asked.sum())
        others = (~asked).nonzero().flatten()[: round_up(count, CPU_MULTIPLE) - count]
        asked[others] = True
        return asked.nonzero().flatten()

    @cached_property
    def dense(self) -> Tensor:
        """The same mask as a plain tensor."""
        return attention_mask(self.batch)

    @cached_property
    def pieces(self) -> list[QueryGroup]:
        """The rows' prompts with their first completion, and their further completions."""
        pieces, stop = [], 0
        for span, ask in zip(self.spans, self.asks, strict=True):
            start = stop
            stop += span.prompt + span.completions[0]
            pieces.append(QueryGroup(slice(start + ask, stop), (slice(start, stop),)))
            for positions in span.completions[1:]:
                own = slice(stop, stop := stop + positions)
                if positions:
                    pieces.append(QueryGroup(own, (slice(start, start + span.prompt), own)))
        return pieces

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
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return _Pieces.apply(query, key, value, attn_mask.pieces, scale)


class _Pieces(torch.autograd.Function):
    """Causal attention of each piece. Probabilities are made again in backward: no scores are kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, pieces: list[QueryGroup], scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.pieces, ctx.scale = pieces, scale
        _, heads, length, _ = query.shape
        # In the layout that transformers wants next, so that its `transpose(1, 2).contiguous()` copies nothing. What
        # nobody reads is 0.
        output = query.new_zeros(1, length, heads, value.shape[3])
        with fast_batches():
            for piece in pieces:
                q, k, v = _operands(query, key, value, piece, scale)
                found = q.new_empty(*q.shape[:3], v.shape[2])
                for own, seen in _blocks(q, k):
                    found[own] = torch.bmm(_probabilities(q[own], k[seen], piece.padding), v[seen]).view_as(found[own])
                output[0, piece.queries] = found.flatten(0, 1)[:, -piece.asked :].transpose(0, 1)
        return output.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        wide = _wide(query.dtype)
        d_query = torch.zeros(query.shape, dtype=wide)
        d_key, d_value = (torch.zeros(side.shape, dtype=wide) for side in (key, value))
        with fast_batches():
            for piece in ctx.pieces:
                q, k, v = _operands(query, key, value, piece, ctx.scale)
                up = _in_line(upstream, (piece.queries,), q.shape[2]).unflatten(0, q.shape[:2])
                d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
                for own, seen in _blocks(q, k):
                    flat, up_flat = q[own].flatten(1, 2), up[own].flatten(1, 2)
                    probs = _probabilities(q[own], k[seen], piece.padding)
                    d_scores = torch.bmm(up_flat, v[seen].mT, out=_scratch("gradient", probs.shape, wide))
                    torch.ops.aten._softmax_backward_data.out(d_scores, probs, 2, wide, grad_input=d_scores)
                    d_q[own] = torch.bmm(d_scores, k[seen]).view_as(d_q[own])
                    d_k[seen] += torch.bmm(d_scores.mT, flat)
                    d_v[seen] += torch.bmm(probs.mT, up_flat)
                d_query[0, :, piece.queries] = d_q.mul_(ctx.scale).flatten(0, 1)[:, -piece.asked :]
                start = piece.padding
                for places in piece.keys:
                    stop = start + places.stop - places.start
                    d_key[0, :, places] += d_k[:, start:stop]
                    d_value[0, :, places] += d_v[:, start:stop]
                    start = stop
        return d_query.to(query.dtype), d_key.to(key.dtype), d_value.to(value.dtype), None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    """float32 at least: half precision is no faster here on a CPU, and less exact."""
    return torch.promote_types(dtype, torch.float32)


def _operands(
    query: Tensor, key: Tensor, value: Tensor, piece: QueryGroup, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A piece's scaled queries, (key heads, group, queries, d), and its keys and values, (key heads, keys, d).

    Round numbers of both; what is there for nothing stands first.
    """
    q = _in_line(query, (piece.queries,), round_up(piece.asked, CPU_MULTIPLE)).mul_(scale)
    k, v = (_in_line(side, piece.keys, piece.padding + piece.seen) for side in (key, value))
    return q.unflatten(0, (len(k), -1)), k, v


def _in_line(side: Tensor, places: Sequence[slice], size: int) -> Tensor:
    """`(heads, size, d)`: these places of `side` (1, heads, length, d), one after the other, the last one last."""
    _, heads, _, d = side.shape
    made = torch.empty(heads, size, d, dtype=_wide(side.dtype))
    stop = size
    for place in reversed(places):
        start = stop - (place.stop - place.start)
        made[:, start:stop] = side[0, :, place]
        stop = start
    made[:, :stop] = 0
    return made


def _blocks(q: Tensor, k: Tensor) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """What picks a block's queries from (key heads, group, queries, d), and what they see from (key heads, keys, d)."""
    (heads, group, queries, _), before = q.shape, k.shape[1] - q.shape[2]
    for start in range(0, queries, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, queries)
        seen = before + stop
        several = max(1, SCORE_BYTES // (group * (stop - start) * seen * q.element_size()))
        for head in range(0, heads, several):
            some = slice(head, head + several)
            yield (some, slice(None), slice(start, stop)), (some, slice(seen))


def _probabilities(q: Tensor, k: Tensor, padding: int) -> Tensor:
    """`(heads, group * queries, keys)` for queries (heads, group, queries, d), the last of which sees the last key.

    Nobody sees the first `padding` keys. In memory that the next call takes again.
    """
    heads, group, queries, _ = q.shape
    scores = _scratch("scores", (heads, group * queries, k.shape[1]), q.dtype)
    torch.bmm(q.flatten(1, 2), k.mT, out=scores)
    scores.unflatten(1, (group, queries))[..., -queries:] += _after_diagonal(queries, q.dtype)
    scores[..., :padding] = UNSEEN
    return torch.softmax(scores, dim=2, out=scores)


_own = threading.local()


def _scratch(name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory of this thread, the same at every call that is not too large: fresh pages cost more than the product."""
    elements = prod(shape)
    if elements * dtype.itemsize > SCORE_BYTES:
        return torch.empty(shape, dtype=dtype)
    kept: Tensor | None = getattr(_own, name, None)
    if kept is None:
        with torch.inference_mode(False):  # what is made in that mode may not be written to outside of it
            kept = torch.empty(SCORE_BYTES, dtype=torch.uint8)
        setattr(_own, name, kept)
    return kept.view(dtype)[:elements].view(shape)


@lru_cache(maxsize=QUERY_BLOCK)
def _after_diagonal(length: int, dtype: torch.dtype) -> Tensor:
    """`(length, length)`: -inf for the keys behind a query, 0 elsewhere."""
    return torch.full((length, length), float("-inf"), dtype=dtype).triu_(1)
