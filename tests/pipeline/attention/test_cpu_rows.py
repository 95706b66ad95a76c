import threading

import numpy as np
import pytest
import torch
from tiny_models import random_rows
from torch.nn.functional import scaled_dot_product_attention as attention

from scoreonce.pipeline.attention import cpu_rows, row_kernel, row_products
from scoreonce.pipeline.attention.cpu_rows import RowMask
from scoreonce.pipeline.attention.row_groups import QueryGroup
from scoreonce.pipeline.batches.prompt_rows import CPU_MULTIPLE, PromptRow, attention_mask, collate


@pytest.fixture(
    params=[(4, 1), (4, 4096), (192, 4 << 20), None, 16],
    ids=["a head at once", "blocks", "whole rows", "kernel", "kernel, blocks"],
)
def way(request, monkeypatch):
    """Products in blocks far shorter than a row, of a head or several; every row as one; or torch's kernel."""
    products = isinstance(request.param, tuple)
    monkeypatch.setattr(cpu_rows, "onednn_is_faster", lambda: products)
    if products:
        block, scores = request.param
        monkeypatch.setattr(row_products, "QUERY_BLOCK", block)
        monkeypatch.setattr(row_products, "CPU_MULTIPLE", min(block, 64))
        monkeypatch.setattr(row_products, "SCORE_BYTES", scores)
        monkeypatch.setattr(row_products, "_own", threading.local())
    elif request.param is not None:
        monkeypatch.setattr(row_kernel, "MASK_ELEMENTS", request.param)
        monkeypatch.setattr(row_kernel, "FEWEST_QUERIES", 2)


def line(rows, heads=3, key_heads=3, d=5, value_d=5, dtype=torch.float64, window=None):
    torch.manual_seed(0)
    batch = collate(rows, "packed")
    length = batch.input_ids.shape[1]
    shapes = ((heads, d), (key_heads, d), (key_heads, value_d))
    sides = [torch.randn(1, n, length, width, dtype=dtype, requires_grad=True) for n, width in shapes]
    return batch, RowMask.of(rows, batch, window), sides


def test_groups_by_hand():
    """A prompt of two, completions of one position, none and two; then a row of one prompt position."""
    ids = np.arange(3, dtype=np.int32)
    rows = [PromptRow(ids[:2], (ids[:2], ids[:1], ids)), PromptRow(ids[:1], (ids[:1],))]
    mask = RowMask.of(rows, collate(rows, "packed"))
    first, third, second_row = mask.groups
    assert first == QueryGroup(slice(0, 3), (slice(0, 3),))
    assert third == QueryGroup(slice(3, 5), (slice(0, 2), slice(3, 5)))
    assert second_row == QueryGroup(slice(5, 6), (slice(5, 6),))
    assert (third.query_count, third.key_count, third.padding) == (2, 4, CPU_MULTIPLE - 4)
    # Used are the last position of each prompt, what follows it, and others up to a multiple.
    of_used = mask.for_used()
    assert [group.queries for group in of_used.groups] == [slice(1, 3), slice(3, 5), slice(5, 6)]
    assert of_used.used.tolist() == [*range(CPU_MULTIPLE)]


def test_groups_with_a_window_by_hand():
    """A prompt of four, completions of two and of three positions, a window of three: 0 1 2 3 | 4 5 | 6 7 8.

    The third group's first query, position 4 of its sequence, attends to 2 and 3 of the prompt and to itself.
    """
    ids = np.arange(5, dtype=np.int32)
    rows = [PromptRow(ids[:4], (ids[:3], ids[:4]))]
    mask = RowMask.of(rows, collate(rows, "packed"), 3)
    assert mask.groups == [
        QueryGroup(slice(0, 6), (slice(0, 6),)),
        QueryGroup(slice(6, 9), (slice(2, 4), slice(6, 9))),
    ]
    # Read is the prompt's last position, which attends to 1, 2 and itself.
    assert mask.for_used().groups[0] == QueryGroup(slice(3, 6), (slice(1, 6),))
    narrow = RowMask.of(rows, collate(rows, "packed"), 1)
    assert narrow.groups[1] == QueryGroup(slice(6, 9), (slice(6, 9),))


@pytest.mark.parametrize("window", [None, 3])
def test_a_row_mask_says_what_the_dense_mask_says(window):
    rows = random_rows(4)
    batch, mask, _ = line(rows, window=window)
    dense = attention_mask(batch, window)
    assert mask.shape == dense.shape
    assert mask.dtype == dense.dtype
    assert torch.equal(mask | False, dense)  # any operation that is not attention
    assert [span.length for span in mask.spans] == [row.tokens for row in rows]


@pytest.mark.parametrize("window", [None, 1, 2, 5, 9, 1000])
@pytest.mark.parametrize(("key_heads", "value_d"), [(3, 5), (1, 5), (3, 7)])
def test_values_and_gradients_equal_the_dense_mask(way, key_heads, value_d, window):
    batch, mask, sides = line(random_rows(5, longest=12), key_heads=key_heads, value_d=value_d, window=window)
    gqa, dense = key_heads != 3, attention_mask(batch, window)
    rows = sum(span.length for span in mask.spans)  # what follows in the line is padding, of which nothing is read
    ours = attention(*sides, attn_mask=mask[:, :, :, : dense.shape[3]], scale=0.7, enable_gqa=gqa)[:, :, :rows]
    theirs = attention(*sides, attn_mask=dense, scale=0.7, enable_gqa=gqa)[:, :, :rows]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, sides, upstream), torch.autograd.grad(theirs, sides, upstream), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_half_precision_is_attended_to_in_float32(way):
    batch, mask, sides = line(random_rows(3), dtype=torch.bfloat16)
    exact = attention(*(side.double() for side in sides), attn_mask=attention_mask(batch))
    ours, rows = attention(*sides, attn_mask=mask), sum(span.length for span in mask.spans)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours[:, :, :rows], exact.to(torch.bfloat16)[:, :, :rows])


@pytest.mark.parametrize("window", [None, 4])
def test_queries_that_nobody_reads_get_nothing(way, window):
    batch, mask, sides = line(random_rows(5, longest=12), key_heads=1, window=window)
    whole = attention(*sides, attn_mask=mask, enable_gqa=True)
    read = batch.predicts.unique()
    ours = attention(*sides, attn_mask=mask.for_used(), enable_gqa=True)
    torch.testing.assert_close(ours[:, :, read], whole[:, :, read], rtol=1e-12, atol=1e-12)
    rest = torch.ones(ours.shape[2], dtype=torch.bool).index_fill(0, read, value=False)
    assert not ours[:, :, rest].any()
    upstream = torch.randn_like(whole).index_fill(2, rest.nonzero().flatten(), 0.0)
    for mine, other in zip(*(torch.autograd.grad(each, sides, upstream) for each in (ours, whole)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_float32_stays_float32(way):
    """oneDNN is allowed bfloat16 for these products, and must not use it."""
    batch, mask, sides = line(random_rows(3, longest=80), d=64, value_d=64, dtype=torch.float32)
    rows = sum(span.length for span in mask.spans)
    exact = attention(*(side.double() for side in sides), attn_mask=attention_mask(batch))[:, :, :rows]
    assert (attention(*sides, attn_mask=mask)[:, :, :rows] - exact).abs().max() < 1e-5


def test_dropout_and_a_part_of_the_keys_are_left_to_the_dense_mask():
    batch, mask, (query, key, value) = line(random_rows(3))
    dense = attention_mask(batch)
    part = mask[:, :, :, :4]
    assert torch.equal(part, dense[:, :, :, :4])
    torch.manual_seed(1)
    ours = attention(query, key, value, mask, dropout_p=0.5)
    torch.manual_seed(1)
    assert torch.equal(ours, attention(query, key, value, dense, dropout_p=0.5))


def test_a_window_makes_long_rows_cheaper(monkeypatch):
    """A row of 1,000 positions in blocks of 192: without a window each block's scores go back to the first key, with
    one of 64 to the multiple of 64 at or before the first query's."""
    rows = [PromptRow(np.arange(1000, dtype=np.int32), (np.arange(2, dtype=np.int32),))]
    widths = {}
    for window in (None, 64):
        seen = []
        honest = row_products._probabilities
        monkeypatch.setattr(cpu_rows, "onednn_is_faster", lambda: True)
        monkeypatch.setattr(
            row_products,
            "_probabilities",
            lambda q, k, padding, window, seen=seen, honest=honest: (
                seen.append(k.shape[1]) or honest(q, k, padding, window)
            ),
        )
        _, mask, sides = line(rows, heads=1, key_heads=1, window=window)
        attention(*sides, attn_mask=mask)
        monkeypatch.undo()
        widths[window] = seen
    # 1,001 positions are padded to 1,024: queries 0, 192, 384, 576, 768 and 960 begin a block.
    assert widths[None] == [192, 384, 576, 768, 960, 1024]
    assert widths[64] == [192, 256, 256, 256, 256, 128]
