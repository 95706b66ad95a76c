import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as attention

from scoreonce.pipeline import row_attention
from scoreonce.pipeline.row_attention import RowMask, Span
from scoreonce.pipeline.rows import attention_mask, collate

from .tiny_models import random_rows


@pytest.fixture(params=[1, 10**6], ids=["blocks", "kernel"])
def both_ways(request, monkeypatch):
    """Every row through `_Blocks`, with blocks far shorter than a row, or every row through torch's kernel."""
    monkeypatch.setattr(row_attention, "LONG_ROW", request.param)
    monkeypatch.setattr(row_attention, "BLOCK", 4)


def line(rows, heads=3, key_heads=3, d=5, dtype=torch.float64):
    torch.manual_seed(0)
    batch = collate(rows, "packed")
    length = batch.input_ids.shape[1]
    sides = [torch.randn(1, n, length, d, dtype=dtype, requires_grad=True) for n in (heads, key_heads, key_heads)]
    return batch, RowMask.of(rows, batch), sides


def test_what_a_position_sees_by_hand():
    """A prompt of two, a completion of one position and one of two: the second never sees the first."""
    o, x = 0.0, float("-inf")
    assert Span(2, (1, 2)).bias().tolist() == [
        [o, x, x, x, x],
        [o, o, x, x, x],
        [o, o, o, x, x],
        [o, o, x, o, x],
        [o, o, x, o, o],
    ]


def test_a_row_mask_says_what_the_dense_mask_says():
    rows = random_rows(4)
    batch, mask, _ = line(rows)
    dense = attention_mask(batch)
    assert mask.shape == dense.shape
    assert mask.dtype == dense.dtype
    assert torch.equal(mask | False, dense)  # any operation that is not attention
    start = 0
    for row, span in zip(rows, mask.spans, strict=True):
        assert span.length == row.tokens
        own = slice(start, start := start + row.tokens)
        assert torch.equal(span.bias() == 0, dense[0, 0, own, own])


@pytest.mark.parametrize("key_heads", [3, 1])
def test_values_and_gradients_equal_the_dense_mask(both_ways, key_heads):
    batch, mask, sides = line(random_rows(5, longest=12), key_heads=key_heads)
    gqa, dense = key_heads != 3, attention_mask(batch)
    ours = attention(*sides, attn_mask=mask[:, :, :, : dense.shape[3]], scale=0.7, enable_gqa=gqa)
    theirs = attention(*sides, attn_mask=dense, scale=0.7, enable_gqa=gqa)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, sides, upstream), torch.autograd.grad(theirs, sides, upstream), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_half_precision_is_attended_to_in_float32(both_ways):
    batch, mask, sides = line(random_rows(3), dtype=torch.bfloat16)
    exact = attention(*(side.double() for side in sides), attn_mask=attention_mask(batch))
    ours = attention(*sides, attn_mask=mask)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, exact.to(torch.bfloat16))


def test_dropout_and_a_part_of_the_keys_are_left_to_the_dense_mask():
    batch, mask, (query, key, value) = line(random_rows(3))
    dense = attention_mask(batch)
    part = mask[:, :, :, :4]
    assert torch.equal(part, dense[:, :, :, :4])
    torch.manual_seed(1)
    ours = attention(query, key, value, mask, dropout_p=0.5)
    torch.manual_seed(1)
    assert torch.equal(ours, attention(query, key, value, dense, dropout_p=0.5))
