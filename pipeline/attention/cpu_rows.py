"""Attention of packed prompt rows on a CPU, row by row: nothing is computed between rows.

A kernel with a dense mask computes the scores of every pair of positions and then masks most of them. Here a packed
sequence's mask is a `RowMask`: scaled dot-product attention reads the rows from it and attends within each one, and
every other operation sees the dense mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from scoreonce.pipeline.attention import row_kernel, row_products
from scoreonce.pipeline.attention.cpu_features import onednn_is_faster
from scoreonce.pipeline.attention.row_groups import QueryGroup, Span
from scoreonce.pipeline.batches.prompt_rows import CPU_MULTIPLE, Batch, PromptRow, attention_mask, round_up


class RowMask(Tensor):
    """The attention mask of one packed sequence, `(1, 1, length, length)` bool, kept as the rows that it is made of.

    With a sliding `window`, queries attend to keys fewer than `window` positions before them.
    """

    batch: Batch
    window: int | None
    spans: list[Span]
    first_queries: list[int]  # of each row, the first position whose attention output is used
    kernel_masks: row_kernel.Masks  # made by the first layer

    @classmethod
    def of(cls, rows: Sequence[PromptRow], batch: Batch, window: int | None = None) -> RowMask:
        """The mask of `batch`, the packed `rows`."""
        length = batch.input_ids.shape[1]
        mask = torch.Tensor._make_subclass(cls, torch.zeros(1, 1, 1, 1, dtype=torch.bool).expand(1, 1, length, length))
        mask.batch, mask.window = batch, window
        mask.spans = [Span(len(row.prompt), tuple(len(c) - 1 for c in row.completions)) for row in rows]
        mask.first_queries = [0] * len(rows)
        mask.kernel_masks = {}
        return mask

    def for_used(self) -> RowMask:
        """The same mask with queries only at positions that predict a token: from the last one of each prompt on.

        Attention output is 0 at the others.
        """
        with torch._C.DisableTorchFunctionSubclass():
            mask = torch.Tensor._make_subclass(RowMask, self.as_subclass(Tensor))
        mask.batch, mask.window, mask.spans = self.batch, self.window, self.spans
        mask.first_queries = [span.prompt - 1 for span in self.spans]
        mask.kernel_masks = self.kernel_masks
        return mask

    @cached_property
    def used(self) -> Tensor:
        """The positions whose output is used, int64, and others up to a multiple of CPU_MULTIPLE."""
        used = torch.zeros(self.shape[-1], dtype=torch.bool)
        ends = accumulate(span.length for span in self.spans)
        for end, span, first in zip(ends, self.spans, self.first_queries, strict=True):
            used[end - span.length + first : end] = True
        count = int(used.sum())
        used[(~used).nonzero().flatten()[: round_up(count, CPU_MULTIPLE) - count]] = True
        return used.nonzero().flatten()

    @cached_property
    def dense(self) -> Tensor:
        """The same mask as a plain tensor."""
        return attention_mask(self.batch, self.window)

    @cached_property
    def groups(self) -> list[QueryGroup]:
        """Of each row its prompt with the first completion, and each further completion, with the keys they see."""
        groups, stop = [], 0
        for span, first in zip(self.spans, self.first_queries, strict=True):
            start = stop
            stop += span.prompt + span.completions[0]
            groups.append(QueryGroup(slice(start + first, stop), (slice(start, stop),)))
            for positions in span.completions[1:]:
                own = slice(stop, stop := stop + positions)
                if positions:
                    groups.append(QueryGroup(own, (slice(start, start + span.prompt), own)))
        return groups if self.window is None else [group.within(self.window) for group in groups]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Attention goes by rows, shape and dtype are the mask's own, and every other operation gets the dense mask."""
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
    """Whether `index` selects all of `shape`; transformers cuts masks to the length of the keys."""
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
    work = (query, key, value, attn_mask.groups, attn_mask.window, scale)
    if onednn_is_faster() or query.shape[3] != value.shape[3]:  # the kernel wants one width
        return row_products.attend(*work)
    return row_kernel.attend(*work, attn_mask.kernel_masks)
