"""The functions that a GPU compiles, run uncompiled on a CPU, against the ones that a CPU runs."""

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters

from scoreonce.pipeline.head import kernels as fused
from scoreonce.pipeline.head import log_probs as head_module
from scoreonce.pipeline.head.log_probs import Head, token_columns


def columns_and_gradients(scale, softcap, dtype):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, 5, generator=generator, dtype=torch.float64) for size in (11, 7))
    hidden, weight = (leaf.to(dtype).requires_grad_() for leaf in (hidden, weight))
    targets = torch.randint(7, (11,), generator=generator)
    found = token_columns(hidden, Head(weight, None, scale, softcap), targets, statistics=True)
    upstream = torch.linspace(-1, 2, 11, dtype=found.logps.dtype)
    gradients = torch.autograd.grad((found.logps * upstream).sum(), [hidden, weight])
    return [found.logps.detach(), *found.statistics, *gradients]


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.5, 3.0)])
def test_fused_columns_and_gradients_are_the_plain_ones(monkeypatch, scale, softcap):
    monkeypatch.setattr(head_module, "CPU_CHUNK_ELEMENTS", 4 * 7)
    monkeypatch.setattr(head_module, "CPU_MULTIPLE", 1)
    plain = columns_and_gradients(scale, softcap, torch.float64)
    monkeypatch.setattr(fused, "is_worth_compiling", lambda logits: True)
    calls = []
    monkeypatch.setattr(fused, "compiled", lambda function: calls.append(function.__name__) or function)
    for ours, theirs in zip(columns_and_gradients(scale, softcap, torch.float64), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert calls == ["log_probs_and_statistics"] * 3 + ["gradient"] * 3


def test_masked_logits_have_no_entropy():
    """Two tokens at probability a half, one masked: entropy log 2, log sum p^2 = -log 2."""
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    _, logps, entropy, collision, top1 = fused.log_probs_and_statistics(logits, torch.tensor([0]))
    log2 = torch.tensor(2.0).log().reshape(1)
    torch.testing.assert_close((logps, entropy, collision), (-log2, log2, -log2))
    assert top1.tolist() == [True]


def test_chunks_are_compiled_at_most_twice(monkeypatch):
    """Chunks of 4 tokens and a last of 3, or 2: one graph for whole chunks and one for any other length."""
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(fused.log_probs_and_statistics, fullgraph=True, backend="eager")
    for tokens in (4, 4, 3, 4, 2):
        compiled(torch.randn(tokens, 7), torch.zeros(tokens, dtype=torch.int64))
    assert counters["stats"]["unique_graphs"] == 2
