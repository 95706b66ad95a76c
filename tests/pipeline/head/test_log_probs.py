import math

import pytest
import torch

from scoreonce.pipeline.head import log_probs as head_module
from scoreonce.pipeline.head.log_probs import Head, ReferenceLogits, TopLogps, token_columns, token_logps, top_k


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
    return (
        make(tokens, hidden),
        make(vocabulary, hidden),
        make(vocabulary) if bias else None,
        torch.randint(vocabulary, (tokens,), generator=generator),
    )


@pytest.fixture(params=[(1, 1), (3, 1), (100, 1), (3, 4)])
def chunk(request, monkeypatch):
    """Chunks of 1, 3 and all tokens; and of 4 where multiples of 4 are wanted and the last is filled up."""
    size, multiple = request.param
    monkeypatch.setattr(head_module, "CPU_CHUNK_ELEMENTS", size * 7)
    monkeypatch.setattr(head_module, "CPU_MULTIPLE", multiple)


@pytest.mark.parametrize(
    ("bias", "scale", "softcap"), [(False, 1.0, None), (True, 0.25, None), (True, 1.0, 2.0), (True, 0.5, 3.0)]
)
def test_values_and_gradients_equal_autograd_through_whole_logits(chunk, bias, scale, softcap):
    hidden, weight, b, targets = inputs(bias)
    head = Head(weight, b, scale, softcap)
    upstream = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
    leaves = [leaf for leaf in (hidden, weight, b) if leaf is not None]
    ours, theirs = token_logps(hidden, head, targets), direct(hidden, head, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for mine, other in zip(
        torch.autograd.grad((ours * upstream).sum(), leaves),
        torch.autograd.grad((theirs * upstream).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_uniform_distribution_by_hand(chunk):
    """Zero weights give p = 1/7: log p = -log 7, entropy log 7, log sum p^2 = log(7 / 49) = -log 7; token 0 wins."""
    hidden, targets = torch.ones(3, 5), torch.tensor([0, 6, 3])
    logps, statistics, *_ = token_columns(hidden, Head(torch.zeros(7, 5), None), targets, statistics=True)
    for column, value in (
        (logps, -math.log(7)),
        (statistics.entropy, math.log(7)),
        (statistics.collision_logps, -math.log(7)),
    ):
        torch.testing.assert_close(column, torch.full((3,), value))
    assert statistics.top1.tolist() == [True, False, False]


def test_two_tokens_by_hand():
    """Logits (log 3, 0): p = (3/4, 1/4); entropy = -(3/4 log 3/4 + 1/4 log 1/4); sum p^2 = 10/16."""
    head = Head(torch.tensor([[math.log(3)], [0.0]]), None)
    logps, statistics, *_ = token_columns(torch.ones(1, 1), head, torch.tensor([1]), statistics=True)
    assert logps.item() == pytest.approx(math.log(0.25))
    assert statistics.entropy.item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-6)
    assert statistics.collision_logps.item() == pytest.approx(math.log(10 / 16), rel=1e-6)
    assert not statistics.top1.item()


def test_a_masked_token_counts_nothing():
    """A bias of -inf leaves logits (log 3, 0): the statistics are those of two tokens."""
    bias = torch.tensor([0.0, 0.0, -math.inf])
    head = Head(torch.tensor([[math.log(3)], [0.0], [0.0]]), bias)
    logps, statistics, *_ = token_columns(torch.ones(1, 1), head, torch.tensor([0]), statistics=True)
    assert logps.item() == pytest.approx(math.log(0.75))
    assert statistics.entropy.item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-6)
    assert statistics.collision_logps.item() == pytest.approx(math.log(10 / 16), rel=1e-6)
    assert statistics.top1.item()


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


@pytest.mark.parametrize(("bias", "scale", "softcap"), [(False, 1.0, None), (True, 0.5, 3.0)])
def test_full_vocabulary_columns_equal_autograd_through_whole_logits(chunk, bias, scale, softcap):
    """KL(reference || policy) with its gradient and the perturbed log-probs, against the formulas on whole logits."""
    hidden, weight, b, targets = inputs(bias)
    head, epsilon = Head(weight, b, scale, softcap), 0.05
    generator = torch.Generator().manual_seed(1)
    reference = ReferenceLogits(
        torch.randn(11, 4, generator=generator, dtype=torch.float64),
        Head(torch.randn(7, 4, generator=generator, dtype=torch.float64), None, 1.0, 2.0),
        epsilon,
    )
    columns = token_columns(hidden, head, targets, statistics=True, reference=reference)
    f = whole_logits(hidden, head)
    g = whole_logits(reference.hidden, reference.head)
    kl = (g.softmax(1) * (g.log_softmax(1) - f.log_softmax(1))).sum(1)
    torch.testing.assert_close(columns.kl, kl, rtol=1e-12, atol=1e-12)
    for column, sign in ((columns.perturbed.plus_logps, 1), (columns.perturbed.minus_logps, -1)):
        moved = ((1 + sign * epsilon) * f - sign * epsilon * g).log_softmax(1).gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(column, moved.detach(), rtol=1e-12, atol=1e-12)
        assert not column.requires_grad
    leaves = [leaf for leaf in (hidden, weight, b) if leaf is not None]
    up, up_kl = torch.linspace(-1, 2, 11, dtype=torch.float64), torch.linspace(3, -1, 11, dtype=torch.float64)
    ours = torch.autograd.grad((columns.logps * up + columns.kl * up_kl).sum(), leaves)
    theirs = torch.autograd.grad((direct(hidden, head, targets) * up + kl * up_kl).sum(), leaves)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def whole_logits(hidden, head):
    logits = hidden @ head.weight.T
    logits = (logits if head.bias is None else logits + head.bias) * head.scale
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def test_equal_models_have_no_kl_and_nothing_to_perturb():
    hidden, weight, _, targets = inputs(False)
    columns = token_columns(
        hidden,
        Head(weight, None),
        targets,
        reference=ReferenceLogits(hidden.detach(), Head(weight.detach(), None), 0.01),
    )
    assert columns.kl.abs().max() < 1e-15
    assert torch.equal(columns.perturbed.plus_logps, columns.logps)
    assert torch.equal(columns.perturbed.minus_logps, columns.logps)


def coarse_kl(p, q, k):
    """KL over k tokens and one bin, from its definition."""
    top = p.topk(k, dim=1).indices
    p_top, q_top = p.gather(1, top), q.gather(1, top)
    p_tail, q_tail = 1 - p_top.sum(1), 1 - q_top.sum(1)
    return (p_top * (p_top / q_top).log()).sum(1) + p_tail * (p_tail / q_tail).log()


def test_the_tail_is_one_bin_by_hand():
    """Reference (1/2, 1/4, 1/8, 1/8), k = 1, policy (1/4, 1/2, 1/8, 1/8): the bins are (1/2, 1/2) and (1/4, 3/4), so
    KL = 1/2 log 2 + 1/2 log(2/3) = 1/2 log(4/3). The exact KL is 1/2 log 2 - 1/4 log 2 = 1/4 log 2, and what is lacking
    is 1/2 KL((1/2, 1/4, 1/4) || (2/3, 1/6, 1/6)) = 1/4 log(3/4) + 1/4 log(3/2). Token 1 has the policy's share of the
    tail: 1/2 * 2/3 = 1/3. Moving away by epsilon = 1 makes weights q^2 / p: (1/8, 3/4, 3/16, 3/16) with p = (1/2, 1/3,
    1/12, 1/12), so token 1 gets 0.75 / 1.25 = 3/5; moving towards gives p itself, 1/3."""
    top = top_k(torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log(), Head(torch.eye(4), None), 1)
    assert top.tail.exp().item() == pytest.approx(0.5, rel=1e-3)
    policy = torch.tensor([[0.25, 0.5, 0.125, 0.125]]).log()
    reference = TopLogps(top.ids, torch.tensor([[0.5]]).log(), torch.tensor([0.5]).log(), 1.0)
    columns = token_columns(policy, Head(torch.eye(4), None), torch.tensor([1]), reference=reference)
    kl, exact = 0.5 * math.log(4 / 3), 0.25 * math.log(2)
    assert columns.kl.item() == pytest.approx(kl, rel=1e-5)
    assert exact - kl == pytest.approx(0.25 * math.log(3 / 4) + 0.25 * math.log(3 / 2))
    assert columns.reference_logps.item() == pytest.approx(math.log(1 / 3), rel=1e-5)
    assert columns.perturbed.plus_logps.item() == pytest.approx(math.log(3 / 5), rel=1e-5)
    assert columns.perturbed.minus_logps.item() == pytest.approx(math.log(1 / 3), rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_kl_of_bins_is_a_lower_bound_that_grows_with_k(chunk, scale):
    """Against its definition, with autograd through it for the gradient; equal to the exact KL at k = 6 of 7."""
    hidden, weight, _, targets = inputs(False)
    generator = torch.Generator().manual_seed(1)
    ref_logps = (scale * torch.randn(11, 7, generator=generator, dtype=torch.float64)).log_softmax(1)
    policy = (hidden @ weight.T).log_softmax(1)
    exact = (ref_logps.exp() * (ref_logps - policy)).sum(1)
    before = torch.zeros(11, dtype=torch.float64)
    up = torch.linspace(3, -1, 11, dtype=torch.float64)
    for k in range(1, 7):
        logps, ids = ref_logps.topk(k, dim=1)
        tail = (1 - logps.exp().sum(1)).log()
        found = token_columns(hidden, Head(weight, None), targets, reference=TopLogps(ids.int(), logps, tail)).kl
        expected = coarse_kl(ref_logps.exp(), policy.exp(), k)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert (expected <= exact + 1e-12).all()
        assert (expected >= before - 1e-12).all()
        before = expected.detach()
        for mine, other in zip(
            torch.autograd.grad((found * up).sum(), (hidden, weight)),
            torch.autograd.grad((expected * up).sum(), (hidden, weight), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(before, exact.detach(), rtol=1e-10, atol=1e-12)


def test_the_reference_itself_has_no_kl_from_its_bins():
    """Rounding to float16 alone is left, in the square: at most (12 * 2^-11)^2 / 2 = 2e-5 for log-probs above -12. From
    k = 39 of 40 the tail is one token. Without its mass it would be what rounding leaves of 1, and the KL 2e-3."""
    logits = 3 * torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    head, targets = Head(torch.eye(40), None), torch.zeros(50, dtype=torch.int64)
    for k in (1, 5, 39):
        top = top_k(logits, head, k)
        columns = token_columns(logits, head, targets, reference=TopLogps(*top))
        assert columns.kl.abs().max() < 2e-5


def test_a_policy_without_a_tail_stays_finite():
    """The policy is sure of token 0, in float32 without anything left; the reference gives the tail half."""
    policy = torch.tensor([[200.0, 0.0, 0.0, 0.0]]).requires_grad_()
    reference = TopLogps(torch.tensor([[0]]), torch.tensor([[0.5]]).log(), torch.tensor([0.5]).log())
    kl = token_columns(policy, Head(torch.eye(4), None), torch.tensor([0]), reference=reference).kl
    assert kl.item() == pytest.approx(0.5 * math.log(0.5) + 0.5 * (math.log(0.5) + 200 - math.log(3)), rel=1e-5)
    kl.sum().backward()
    assert policy.grad.isfinite().all()
