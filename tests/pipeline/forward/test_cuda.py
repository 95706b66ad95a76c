"""The forward pass on a GPU: compiled block masks, the compiled head, and no waiting. Skipped where there is none."""

import warnings

import pytest
import torch
import torch._dynamo
import transformers as tr
from tiny_models import random_rows

from scoreonce.pipeline import methods
from scoreonce.pipeline.attention import flex
from scoreonce.pipeline.batches.microbatches import batcher_for
from scoreonce.pipeline.forward.layout_probe import choose_layout
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.head import kernels as fused
from scoreonce.pipeline.head.log_probs import Head, token_columns
from scoreonce.pipeline.training.step import Step
from scoreonce.stages.models import loading

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # of compilers
]
COMMON = {
    "vocab_size": 97,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": lambda: tr.LlamaConfig(**COMMON),
    "qwen2_heads_not_a_power_of_two": lambda: tr.Qwen2Config(
        **{**COMMON, "hidden_size": 192, "num_attention_heads": 6}
    ),
    "llama_heads_of_odd_width": lambda: tr.LlamaConfig(**COMMON, head_dim=80),
    "llama_narrow_heads": lambda: tr.LlamaConfig(**COMMON, head_dim=8),
    "mistral_sliding": lambda: tr.MistralConfig(**COMMON, sliding_window=6),
    "gemma2_softcap_sliding": lambda: tr.Gemma2Config(
        **COMMON, head_dim=32, sliding_window=6, query_pre_attn_scalar=32, final_logit_softcapping=3.0
    ),
    "gpt_oss_sinks_sliding": lambda: tr.GptOssConfig(
        **COMMON, head_dim=32, sliding_window=6, num_local_experts=4, num_experts_per_tok=2
    ),
}


def model_of(name, dtype=torch.float32):
    torch.manual_seed(0)
    config = CONFIGS[name]()
    # As `load_model` loads it: SDPA leaves the soft-cap out.
    attention = "eager" if "softcap" in name else None
    model = tr.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.eval().to("cuda", dtype)


def gradient_of(model):
    return torch.cat([p.grad.flatten().double() for p in model.parameters()])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_block_masks_give_the_oracles_numbers_and_gradients(name, compiled):
    torch._dynamo.reset()
    rows, model = random_rows(12), model_of(name)
    padded = TokenScorer(model, "padded")(rows)
    padded.sums().sum().backward()
    expected = gradient_of(model)
    model.zero_grad()
    found = choose_layout(model, "flex", longest_row=60, compiled=compiled, trains=True)
    assert (found.layout, found.reason) == ("flex", "")
    ours = TokenScorer(model, "flex")(rows)
    ours.sums().sum().backward()
    assert (ours.token_logps - padded.token_logps).abs().max() < 1e-4
    assert (gradient_of(model) - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("layout", ["flex", "flash"])
@pytest.mark.parametrize("name", ["llama", "mistral_sliding"])
def test_half_precision_is_as_near_as_its_own_noise(name, layout):
    rows, found, gradients = random_rows(12), {}, {}
    for dtype, way in ((torch.float32, "padded"), (torch.bfloat16, "padded"), (torch.bfloat16, layout)):
        model = model_of(name, dtype)
        if way != "padded":
            choose_layout(model, way, longest_row=60, trains=True)
        scored = TokenScorer(model, way)(rows)
        scored.sums().sum().backward()
        found[dtype, way], gradients[dtype, way] = scored.token_logps.detach(), gradient_of(model)
    for made, far in ((found, lambda x: x.abs().mean()), (gradients, torch.Tensor.norm)):
        exact = made.pop((torch.float32, "padded"))
        noise, ours = (far(other - exact) for other in made.values())
        assert ours < 1.5 * noise


def test_the_faster_of_block_masks_and_flash_attention_is_used():
    found = choose_layout(model_of("llama", torch.bfloat16), "auto", longest_row=60, trains=True)
    assert set(found.seconds) == {"flex", "flash"}
    assert found.layout == min(found.seconds, key=found.seconds.get)
    # In float32 there is no flash kernel.
    found = choose_layout(model_of("llama"), "auto", longest_row=60, trains=True)
    assert (found.layout, found.reason, set(found.seconds)) == ("flex", "", {"flex"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.5, 3.0)])
def test_the_compiled_head_gives_the_plain_heads_numbers(monkeypatch, dtype, scale, softcap):
    generator = torch.Generator("cuda").manual_seed(0)
    hidden, weight = (torch.randn(n, 64, generator=generator, device="cuda").to(dtype) for n in (300, 1000))
    targets = torch.randint(1000, (300,), generator=generator, device="cuda")
    made = {}
    for name, wanted in (("compiled", lambda logits: True), ("plain", lambda logits: False)):
        monkeypatch.setattr(fused, "is_worth_compiling", wanted)
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        columns = token_columns(leaves[0], Head(leaves[1], None, scale, softcap), targets, statistics=True)
        columns.logps.sum().backward()
        made[name] = [columns.logps.detach(), *columns.statistics, *(leaf.grad for leaf in leaves)]
    for ours, theirs in zip(made["compiled"], made["plain"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)


def test_offloaded_activations_leave_gradients_and_take_less_memory():
    """Inputs of eight blocks, 2 MiB each: six of them are not on the GPU when the last block has run."""
    torch.manual_seed(0)
    rows = random_rows(4000)
    found, peaks = [], []
    for offload in (False, True):
        config = tr.LlamaConfig(**{**COMMON, "num_hidden_layers": 8})
        torch.manual_seed(0)
        model = tr.AutoModelForCausalLM.from_config(config).to("cuda")
        loading.recompute_activations(model, offload=offload)
        torch.cuda.reset_peak_memory_stats()
        scored = TokenScorer(model, "padded")(rows)
        peaks.append(torch.cuda.memory_allocated())
        scored.sums().sum().backward()
        found.append((scored.token_logps.detach(), gradient_of(model)))
    (logps, gradient), (others, expected) = found
    assert (logps - others).abs().max() < 1e-5
    assert (gradient - expected).norm() < 1e-5 * expected.norm()
    size = sum(len(row.prompt) + len(ids) for row in rows for ids in row.completions) * 128 * 4
    assert peaks[0] - peaks[1] > 6 * size


def test_a_step_waits_as_often_however_it_is_split():
    """Waits are those that torch's debug mode warns of: some per step, none per micro-batch."""
    rows, model = [row for row in random_rows(40) if len(row.completions) == 2], model_of("llama")
    flex.switch_on(model)
    parameters = list(model.parameters())
    step = Step(TokenScorer(model, "flex"), parameters, methods.resolve("dpo", {}), split=batcher_for("flex"))
    zeros = torch.zeros(len(rows), dtype=torch.float64, device="cuda")
    columns = {"ref_chosen_logps": zeros, "ref_rejected_logps": zeros}

    def waits(budget):
        step(rows, columns, {}, budget)  # compiles
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step(rows, columns, {}, budget)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return len([warning for warning in caught if "synchroniz" in str(warning.message)])

    for budget, microbatches in ((64, 7), (128, 4)):
        assert len(batcher_for("flex")([row.tokens for row in rows], budget)) == microbatches
    assert waits(64) == waits(128)
