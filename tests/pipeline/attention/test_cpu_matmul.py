import gc
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from scoreonce.pipeline.attention import cpu_matmul as products
from scoreonce.pipeline.attention.cpu_matmul import lay_out_for_forward, matmul, use_fast_linears


@pytest.fixture(params=[True, False], ids=["onednn", "plain"])
def library(request, monkeypatch):
    if request.param and not products.onednn_is_faster():
        pytest.skip("this CPU or this torch has no AVX-512 product by oneDNN")
    monkeypatch.setattr(products, "onednn_is_faster", lambda: request.param)


def layers():
    torch.manual_seed(0)
    return [nn.Linear(5, 7), nn.Linear(7, 3, bias=False), Conv1D(4, 3)]


def test_products_equal_float64(library):
    left, right = torch.randn(6, 5), torch.randn(5, 9)
    exact = left.double() @ right.double()
    for a, b in ((left, right), (left.t().contiguous().t(), right.t().contiguous().t())):
        torch.testing.assert_close(matmul(a, b).double(), exact, rtol=1e-5, atol=1e-6)
    assert torch.equal(matmul(left.double(), right.double()), exact)


def test_layers_and_their_gradients_stay_what_they_were(library):
    net, oracle = nn.Sequential(*layers()), nn.Sequential(*layers()).double()
    use_fast_linears(net)
    x = torch.randn(2, 6, 5, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    net(x).square().sum().backward()
    oracle(exact).square().sum().backward()
    for mine, other in zip([x, *net.parameters()], [exact, *oracle.parameters()], strict=True):
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-4, atol=1e-6)
    assert set(net.state_dict()) == set(oracle.state_dict())


def test_frozen_weights_get_no_gradient(library):
    net = nn.Sequential(*layers())
    use_fast_linears(net)
    net.requires_grad_(False)
    x = torch.randn(2, 5, requires_grad=True)
    net(x).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in net.parameters())


def test_other_dtypes_are_left_alone(library):
    for dtype in (torch.float64, torch.bfloat16):
        net, plain = (nn.Sequential(*layers()).to(dtype) for _ in range(2))
        use_fast_linears(net)
        x = torch.ones(2, 5, dtype=dtype)
        assert torch.equal(net(x), plain(x))


def test_weights_laid_out_for_the_forward_pass_are_the_same_weights(library):
    model, plain = tiny_model("llama"), tiny_model("llama")
    use_fast_linears(model)
    lay_out_for_forward(model)
    ids = torch.arange(12).view(1, 12)
    torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=1e-5, atol=1e-5)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert model.get_input_embeddings().weight.is_contiguous()  # rows are looked up in it
    moved = not model.model.layers[0].mlp.up_proj.weight.is_contiguous()
    assert moved == products.onednn_is_faster()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_no_file_of_weights_stays_mapped_beside_weights_laid_out(tmp_path, monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    tiny_model("llama").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, local_files_only=True)

    lay_out_for_forward(model)
    gc.collect()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not products.batches_stay_exact(), reason="needs a CPU on which oneDNN multiplies batches exactly")
def test_batches_are_onednns_and_stay_float32():
    """Within 1e-4 of float64, where bfloat16 factors would be 0.1 off; afterwards everything is as before."""
    left, right = torch.randn(3, 70, 64), torch.randn(3, 64, 90)
    kept = torch.backends.mkldnn.matmul.fp32_precision
    with products.fast_batches():
        found = torch.bmm(left, right)
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert torch.backends.mkldnn.matmul.fp32_precision == kept
    assert (found - torch.bmm(left.double(), right.double())).abs().max() < 1e-4


def test_batches_are_left_alone_where_onednn_would_round(monkeypatch):
    """A processor with matrix units multiplies in bfloat16 once it may."""
    honest = torch.bmm
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)

    def rounding(left, right):
        return honest(left.bfloat16().float(), right) if left.dtype == torch.float32 else honest(left, right)

    monkeypatch.setattr(torch, "bmm", rounding)
    products.batches_stay_exact.cache_clear()
    try:
        assert not products.batches_stay_exact()
        kept = torch.backends.mkldnn.matmul.fp32_precision
        with products.fast_batches():
            assert torch.backends.mkldnn.matmul.fp32_precision == kept
    finally:
        products.batches_stay_exact.cache_clear()
