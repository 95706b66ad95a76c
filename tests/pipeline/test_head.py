import math

import pytest
import torch

from scoreonce.pipeline import head as head_module
from scoreonce.pipeline.head import Head, token_logps, token_logps_and_statistics


def direct(hidden, head, targets):
    logits = hidden @ head.weight.T
    if head.bias is not None:
        logits = logits + head.bias
    logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def inputs(bias, dtype=torch.float64, tokens=11, hidden=5, vocabulary=7):
    generator = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()  # noqa: E731
    return make(tokens, hidden), make(vocabulary, hidden), make(vocabulary) if bias else None, torch.randint(vocabulary, (tokens,), generator=generator)


@pytest.fixture(params=[1, 3, 100])
def chunk(request, monkeypatch):
    """Chunks of 1, 3 and all tokens."""
    monkeypatch.setattr(head_module, "CPU_CHUNK_ELEMENTS", request.param * 7)


@pytest.mark.parametrize(("bias", "scale", "softcap"), [(False, 1.0, None), (True, 0.25, None), (True, 1.0, 2.0), (True, 0.5, 3.0)])
def test_values_and_gradients_equal_autograd_through_whole_logits(chunk, bias, scale, softcap):
    hidden, weight, b, targets = inputs(bias)
    head = Head(weight, b, scale, softcap)
    upstream = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
    leaves = [leaf for leaf in (hidden, weight, b) if leaf is not None]
    ours, theirs = token_logps(hidden, head, targets), direct(hidden, head, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for mine, other in zip(torch.autograd.grad((ours * upstream).sum(), leaves), torch.autograd.grad((theirs * upstream).sum(), leaves), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_uniform_distribution_by_hand(chunk):
    """Zero weights give p = 1/7: log p = -log 7, entropy log 7, log sum p^2 = log(7 / 49) = -log 7; argmax is token 0."""
    hidden, targets = torch.ones(3, 5), torch.tensor([0, 6, 3])
    logps, statistics = token_logps_and_statistics(hidden, Head(torch.zeros(7, 5), None), targets)
    for column, value in ((logps, -math.log(7)), (statistics.entropy, math.log(7)), (statistics.collision_logps, -math.log(7))):
        torch.testing.assert_close(column, torch.full((3,), value))
    assert statistics.top1.tolist() == [True, False, False]


def test_two_tokens_by_hand():
    """Logits (log 3, 0): p = (3/4, 1/4); entropy = -(3/4 log 3/4 + 1/4 log 1/4); sum p^2 = 10/16."""
    logps, statistics = token_logps_and_statistics(torch.ones(1, 1), Head(torch.tensor([[math.log(3)], [0.0]]), None), torch.tensor([1]))
    assert logps.item() == pytest.approx(math.log(0.25))
    assert statistics.entropy.item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-6)
    assert statistics.collision_logps.item() == pytest.approx(math.log(10 / 16), rel=1e-6)
    assert not statistics.top1.item()


def test_bfloat16_loses_nothing_after_the_hidden_states():
    """With bfloat16 inputs the product and the normaliser are float32: the error is float32's, not 1.6e-2."""
    hidden, weight, _, targets = inputs(False, torch.bfloat16, tokens=64, hidden=32, vocabulary=7)
    exact = direct(hidden.double(), Head(weight.double(), None), targets)
    assert (token_logps(hidden, Head(weight, None), targets).double() - exact).abs().max() < 1e-5


def test_certain_token_is_never_above_zero():
    logps = token_logps(torch.full((1, 1), 100.0), Head(torch.tensor([[100.0], [0.0]]), None), torch.tensor([0]))
    assert logps.item() == 0.0


def test_frozen_head_gets_no_gradient():
    hidden, weight, _, targets = inputs(False)
    frozen = weight.detach()
    token_logps(hidden, Head(frozen, None), targets).sum().backward()
    assert hidden.grad is not None
    assert frozen.grad is None
