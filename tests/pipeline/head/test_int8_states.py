"""Hidden states in 8 bits: codes, scales and errors by hand."""

import math

import pytest
import torch

from scoreonce.pipeline.head import int8_states as module
from scoreonce.pipeline.head.int8_states import int8_bytes, quantised, restored
from scoreonce.pipeline.head.log_probs import Head, state_error


def test_codes_and_scales_by_hand():
    """Two groups of 32. Largest |element| 127/4 gives the scale 1/4: 31.75 -> 127, -1 -> -4, 0.1 -> 0 (0.4 rounds to
    0), 0.2 -> 1. Largest 254 gives the scale 2: -254 -> -127, 3 -> 2 (1.5 rounds to even), 5 -> 2."""
    hidden = torch.zeros(1, 64)
    hidden[0, :4] = torch.tensor([31.75, -1.0, 0.1, 0.2])
    hidden[0, 32:35] = torch.tensor([-254.0, 3.0, 5.0])
    states = quantised(hidden)
    assert states.codes.dtype == torch.int8
    assert states.scales.dtype == torch.bfloat16
    assert states.scales.tolist() == [[0.25, 2.0]]
    assert states.codes[0, :4].tolist() == [127, -4, 0, 1]
    assert states.codes[0, 32:35].tolist() == [-127, 2, 2]
    found = restored(states, torch.float32)
    assert found[0, :4].tolist() == [31.75, -1.0, 0.0, 0.25]
    assert found[0, 32:35].tolist() == [-254.0, 4.0, 4.0]
    assert found[0, 4:32].tolist() == [0.0] * 28


def test_a_scale_that_bfloat16_rounds_down_cuts_off_no_code():
    """bfloat16 rounds a scale down by at most one part in 257, so the largest element is at most 127 * 257 / 256 =
    127.496 scales: its code is 127 and, as for all others, the error at most half a scale. A thousand largest elements
    between two powers of 2, which have every way to be rounded; the worst is just above a half-way point of bfloat16:
    127 * (1 + 1/256) has the scale 1 (half-way, to even) and is off by 0.496."""
    generator = torch.Generator().manual_seed(0)
    largest = torch.cat([127 * torch.linspace(1, 2, 1_000), torch.tensor([127 * (1 + 1 / 256)])])
    hidden = (2 * torch.rand(len(largest), 32, generator=generator) - 1) * largest.unsqueeze(1)
    hidden[:, 7] = largest
    states = quantised(hidden)
    scales = states.scales.float()
    assert scales[-1].item() == 1.0
    assert (scales <= largest.unsqueeze(1) / 127 * 257 / 256).all()
    off = (restored(states, torch.float32) - hidden).abs() / scales
    assert off[-1, 7].item() == pytest.approx(127 / 256, rel=1e-4)
    assert off[:, 7].max() > 0.49
    assert off.max() <= 0.5 + 1e-5  # the division is in float32


def bounds(hidden, states, head):
    """Of a token, in nats: the largest error of a log-prob, and of KL(exact || restored), by the proof of the note.

    A logit is off by at most the sum over the groups of half a scale times the weights' absolute values there; a
    soft-cap has no slope above 1. If no logit is off by more than r, no log-prob is by more than 2 r, and the KL is at
    most the square of the range of errors, 2 r, over 8.
    """
    half = states.scales.double().repeat_interleave(32, 1)[:, : hidden.shape[1]] / 2
    reach = abs(head.scale) * (half @ head.weight.double().abs().T).amax(1)
    return 2 * reach, reach.square() / 2


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.5, 3.0)])
def test_the_error_of_a_distribution_is_within_its_bound(scale, softcap):
    """Random states of a hundredth to ten times the usual size, under a random head."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(40, 72, generator=generator) * torch.logspace(-2, 1, 40).unsqueeze(1)
    states = quantised(hidden)
    near = restored(states, torch.float32)
    head = Head(torch.randn(50, 72, generator=generator), None, scale, softcap)
    error = state_error(hidden, near, head, torch.randint(0, 50, (40,), generator=generator))
    largest_logp, largest_kl = bounds(hidden, states, head)
    rounding = 1e-5
    assert (error.logps.abs() <= largest_logp + rounding).all()
    assert (error.kl <= largest_kl + rounding).all()
    assert error.kl.max() > 10 * rounding


def test_the_bound_is_met_where_all_errors_point_along_the_head():
    """127 and 31 elements of -(1/2 - 1/64) have the scale 1 and become 127 and 0. With weights of 1/8 for one token and
    -1/8 for the other, logits are off by 31 * (31/64) / 8 = 1.877, of at most 32 * (1/2) / 8 = 2. From logits of 14 and
    -14, the log-prob of the second moves by all of the difference, 3.754 of at most 4."""
    hidden = torch.full((1, 32), -(0.5 - 1 / 64))
    hidden[0, 0] = 127.0
    head = Head(torch.stack([torch.ones(32), -torch.ones(32)]) / 8, None)
    states = quantised(hidden)
    error = state_error(hidden, restored(states, torch.float32), head, torch.tensor([1]))
    largest_logp, _ = bounds(hidden, states, head)
    assert largest_logp.item() == 4.0
    assert error.logps.abs().item() == pytest.approx(2 * 31 * (31 / 64) / 8, rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 1e-30, 3e38])
def test_extreme_values_stay_finite_and_near(value):
    found = restored(quantised(torch.full((2, 40), value)), torch.float32)
    torch.testing.assert_close(found, torch.full((2, 40), value), rtol=4e-3, atol=0)


def test_a_width_that_is_no_multiple_of_the_group(monkeypatch):
    """Width 40: two groups, of 32 and 8; and the same whether tokens are taken one by one or together."""
    hidden = torch.arange(120.0).view(3, 40)
    whole = quantised(hidden)
    assert whole.codes.shape == (3, 40)
    assert whole.scales.shape == (3, 2)
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 1)
    parts = quantised(hidden)
    assert torch.equal(parts.codes, whole.codes)
    assert torch.equal(restored(parts, torch.bfloat16), restored(whole, torch.bfloat16))


def test_bytes_of_a_token():
    """4,096 codes and 128 scales of 2 bytes; 40 codes and 2 scales."""
    assert int8_bytes(4_096) == 4_352
    assert int8_bytes(40) == 44
    states = quantised(torch.ones(1, 40))
    assert sum(part.numel() * part.element_size() for part in states) == 44


def test_error_of_the_distribution_by_hand():
    """Logits (log 3, 0) give p = (3/4, 1/4), logits (0, 0) give (1/2, 1/2): KL = 3/4 log 3/2 + 1/4 log 1/2, and the
    second token's log-prob goes from log 1/4 to log 1/2. The third token is masked out and counts nothing."""
    head = Head(torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([0.0, 0.0, -math.inf]))
    error = state_error(torch.tensor([[math.log(3)]]), torch.tensor([[0.0]]), head, torch.tensor([1]))
    assert error.kl.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)
    assert error.logps.item() == pytest.approx(math.log(2), rel=1e-6)
