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


def test_a_scale_that_bfloat16_rounds_down_cuts_off_less_than_a_step():
    """Largest element 127 * (1 + 3/1024): bfloat16 has 7 bits of fraction, so the scale becomes 1 and the code is cut
    off from 127.37 at 127, an error of 0.37 of a scale. The others are off by at most half of one."""
    generator = torch.Generator().manual_seed(0)
    hidden = (torch.rand(50, 32, generator=generator) - 0.5) * 200
    hidden[:, 7] = 127 * (1 + 3 / 1024)
    states = quantised(hidden)
    assert states.scales.unique().tolist() == [1.0]
    assert states.codes[:, 7].unique().tolist() == [127]
    assert (restored(states, torch.float32) - hidden).abs().max() <= 0.5


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
