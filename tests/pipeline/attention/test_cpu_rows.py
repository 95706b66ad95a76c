import threading

import numpy as np
import pytest
import torch
from tiny_models import random_rows
from torch.nn.functional import scaled_dot_product_attention as attention

from scoreonce.pipeline.attention import cpu_rows as row_attention
from scoreonce.pipeline.attention.cpu_rows import QueryGroup, RowMask
from scoreonce.pipeline.batches.prompt_rows import CPU_MULTIPLE, PromptRow, attention_mask, collate


@pytest.fixture(params=[(4, 1), (4, 4096), (192, 4 << 20)], ids=["a head at once", "blocks", "whole rows"])
def sizes(request, monkeypatch):
    """Blocks far shorter than a row, a head or several at once; or every row as one block."""
    block, scores = request.param
    monkeypatch.setattr(row_attention, "QUERY_BLOCK", block)
    monkeypatch.setattr(row_attention, "CPU_MULTIPLE", min(block, 64))
    monkeypatch.setattr(row_attention, "SCORE_BYTES", scores)
    monkeypatch.setattr(row_attention, "_own", threading.local())


def line(rows, heads=3, key_heads=3, d=5, value_d=5, dtype=torch.float64):
    torch.manual_seed(0)
    batch = collate(rows, "packed")
    length = batch.input_ids.shape[1]
    shapes = ((heads, d), (key_heads, d), (key_heads, value_d))
    sides = [torch.randn(1, n, length, width, dtype=dtype, requires_grad=True) for n, width in shapes]
    return batch, RowMask.of(rows, batch), sides


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


def test_a_row_mask_says_what_the_dense_mask_says():
    rows = random_rows(4)
    batch, mask, _ = line(rows)
    dense = attention_mask(batch)
    assert mask.shape == dense.shape
    assert mask.dtype == dense.dtype
    assert torch.equal(mask | False, dense)  # any operation that is not attention
    assert [span.length for span in mask.spans] == [row.tokens for row in rows]


@pytest.mark.parametrize(("key_heads", "value_d"), [(3, 5), (1, 5), (3, 7)])
def test_values_and_gradients_equal_the_dense_mask(sizes, key_heads, value_d):
    batch, mask, sides = line(random_rows(5, longest=12), key_heads=key_heads, value_d=value_d)
    gqa, dense = key_heads != 3, attention_mask(batch)
    rows = sum(span.length for span in mask.spans)  # what follows in the line is padding, of which nothing is read
    ours = attention(*sides, attn_mask=mask[:, :, :, : dense.shape[3]], scale=0.7, enable_gqa=gqa)[:, :, :rows]
    theirs = attention(*sides, attn_mask=dense, scale=0.7, enable_gqa=gqa)[:, :, :rows]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, sides, upstream), torch.autograd.grad(theirs, sides, upstream), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_half_precision_is_attended_to_in_float32(sizes):
    batch, mask, sides = line(random_rows(3), dtype=torch.bfloat16)
    exact = attention(*(side.double() for side in sides), attn_mask=attention_mask(batch))
    ours, rows = attention(*sides, attn_mask=mask), sum(span.length for span in mask.spans)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours[:, :, :rows], exact.to(torch.bfloat16)[:, :, :rows])


def test_queries_that_nobody_reads_get_nothing(sizes):
    batch, mask, sides = line(random_rows(5, longest=12), key_heads=1)
    whole = attention(*sides, attn_mask=mask, enable_gqa=True)
    read = batch.predicts.unique()
    ours = attention(*sides, attn_mask=mask.for_used(), enable_gqa=True)
    torch.testing.assert_close(ours[:, :, read], whole[:, :, read], rtol=1e-12, atol=1e-12)
    rest = torch.ones(ours.shape[2], dtype=torch.bool).index_fill(0, read, value=False)
    assert not ours[:, :, rest].any()
    upstream = torch.randn_like(whole).index_fill(2, rest.nonzero().flatten(), 0.0)
    for mine, other in zip(*(torch.autograd.grad(each, sides, upstream) for each in (ours, whole)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_float32_stays_float32(sizes):
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
