"""What a micro-batch keeps and takes: by hand, and as autograd says of a model with weights."""

import numpy as np
import pytest
import tiny_models
import torch
import transformers as tr

from scoreonce.pipeline.attention import last_layer
from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.head.log_probs import Head, chunk_tokens
from scoreonce.pipeline.memory.allocations import Allocations
from scoreonce.pipeline.memory.head_memory import head_memory
from scoreonce.pipeline.memory.microbatch import microbatch_memory
from scoreonce.pipeline.memory.sizes import forward_operations, sizes_of


def rows(count, prompt, completion):
    ids = np.zeros(prompt, np.int32), np.zeros(completion, np.int32)
    return [PromptRow(ids[0], (ids[1], ids[1]))] * count


def on_meta(name, **settings):
    config = {**tiny_models.SHARED, **tiny_models.PADDED_ONLY}[name]()
    for key, value in settings.items():
        setattr(config, key, value)
    with torch.device("meta"):
        return tr.AutoModelForCausalLM.from_config(config).eval()


def test_allocations_live_and_peak():
    """x (8,) is known; y and z of 32 bytes each are made, y is dropped, w of 64 is made; a view is nothing new."""
    x = torch.empty(8, device="meta")
    with Allocations(known=[x]) as found:
        y = x + 1
        z = y * 2
        assert found.live == 64
        del y
        assert found.live == 32
        w = torch.cat([z, x])
        v = w.view(2, 8)
        assert (found.live, found.peak) == (96, 96)
        del z, w
        assert found.live == 64
        del v
    assert (found.live, found.peak) == (0, 96)


def test_allocations_see_what_autograd_keeps():
    """tanh keeps its output of 32 bytes; the gradient is of 32, and stays."""
    weight = torch.nn.Parameter(torch.empty(8, device="meta"))
    found = Allocations(known=[weight])
    weight.register_post_accumulate_grad_hook(found.add_gradient)
    with found:
        loss = weight.tanh().sum()
        assert found.live == 32 + 4
        loss.backward()
        del loss
    assert found.live == found.gradients == 32


def kept_by_autograd(scorer, batch):
    """Bytes of all tensors that are kept for the backward pass but for weights, each memory once; the head's too."""
    kept = {}
    weights = {p.untyped_storage().data_ptr() for p in (*scorer.parameters(), *scorer.buffers())}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        scored = scorer(batch)
    del scored
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2_absolute_positions", "gpt_neox"])
@pytest.mark.parametrize("prompt", [4, 40])
def test_what_is_kept_is_what_autograd_keeps_of_a_real_model(name, prompt):
    """Short prompts: the last block computes everything; long ones: only what is used of it."""
    model, batch = tiny_models.tiny_model(name), rows(4, prompt, 12)
    real = kept_by_autograd(TokenScorer(model, "packed"), batch)
    found = microbatch_memory(on_meta(name), batch, "packed", device="cpu", trains=True)
    # The head keeps hidden states, targets and normalisers too, and small tensors have no part here.
    assert found.kept == pytest.approx(real, rel=0.05)
    assert found.peak > found.kept


def test_a_skipped_last_block_keeps_less(monkeypatch):
    """Of 4 rows of 80 + 2 x 4 positions, 4 x (1 + 8) of 352 are used, rounded up to 64."""
    found = microbatch_memory(on_meta("llama"), rows(4, 80, 5), "packed", device="cpu", trains=True)
    monkeypatch.setattr(last_layer, "LARGEST_SHARE", 0.0)
    whole = microbatch_memory(on_meta("llama"), rows(4, 80, 5), "packed", device="cpu", trains=True)
    assert found.positions == whole.positions == 384
    assert found.predicted == 40
    # Feed-forward of one of four layers: 4 tensors of width 64 and 2 of width 32, at 384 - 64 positions.
    assert whole.kept - found.kept >= 4 * (384 - 64) * 4 * 64


def test_gradient_checkpointing_keeps_the_inputs_of_blocks():
    """4 layers, 32 wide, float32, 128 positions: 4 x 16,384 bytes, and what lies outside of the blocks."""
    from scoreonce.stages.models.loading import recompute_activations

    batch = rows(2, 4, 31)
    model = on_meta("llama")
    plain = microbatch_memory(model, batch, "flex", device="cuda", trains=True)
    recompute_activations(model)
    found = microbatch_memory(model, batch, "flex", device="cuda", trains=True)
    inputs = 4 * 128 * 32 * 4
    assert plain.positions == 128
    assert inputs <= found.kept <= 2.5 * inputs
    # The pass through one block has what it keeps, beside all inputs.
    assert found.kept + plain.kept / 4 * 0.8 < found.peak < found.kept + plain.kept / 4 * 1.7


def test_operations_are_two_per_weight_and_position():
    """Products of a layer: 2 x 32 x 32 + 2 x 16 x 32 + 3 x 64 x 32 weights; 128 positions; four layers."""
    found = sizes_of(on_meta("llama"), rows(2, 4, 31), "flex", device="cuda", trains=False)
    weights = 4 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32)
    assert found.microbatch.flops == 2 * weights * 128
    # Head 2 x 97 x 32 per completion token; attention 4 x 32 per layer and pair of query and key.
    assert forward_operations(found, 10, 3, 5) == 2 * weights * 10 + 2 * 97 * 32 * 3 + 4 * 32 * 4 * 5


def test_only_the_experts_of_a_position_compute():
    """4 experts, 2 of them for a position: attention, router, and 2 x 3 x 16 x 32 of experts."""
    config = tr.MixtralConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    with torch.device("meta"):
        model = tr.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    found = sizes_of(model, rows(2, 4, 31), "flex", device="cuda", trains=True)
    attention, router, experts = 4 * 32 * 32, 4 * 32, 3 * 16 * 32
    assert found.microbatch.flops == 2 * 128 * (attention + router + 2 * experts)
    assert found.weights.block.count == attention + router + 4 * experts + 2 * 32


def test_gradients_come_while_activations_go():
    """Without gradients before, those of the first blocks to be gone through backwards are there at the peak."""
    model = on_meta("llama")
    later = microbatch_memory(model, rows(2, 4, 31), "flex", device="cuda", trains=True)
    first = microbatch_memory(model, rows(2, 4, 31), "flex", device="cuda", trains=True, accumulates=False)
    assert later.gradients_at_peak == 0
    assert 0 < first.gradients_at_peak < sum(p.nbytes for p in model.parameters())
    assert first.kept == later.kept
    assert all(parameter.grad is None for parameter in model.parameters())


def test_eager_attention_keeps_its_scores():
    """Gemma 2 caps its scores, which only eager attention does: 4 heads x 128 x 128 of them in each layer."""
    model = on_meta("gemma2_softcap_sliding")
    model.set_attn_implementation("eager")
    found = microbatch_memory(model, rows(2, 4, 31), "shared", device="cuda", trains=True)
    fused = microbatch_memory(on_meta("qwen3"), rows(2, 4, 31), "shared", device="cuda", trains=True)
    assert found.positions == fused.positions == 2 * 64
    assert found.kept > fused.kept + 4 * 2 * 4 * 64 * 64 * 4
    assert architecture.settings(model)["num_hidden_layers"] == 4


def head(vocabulary, width, dtype, trained=True):
    return Head(torch.empty(vocabulary, width, dtype=dtype, device="meta", requires_grad=trained), None)


def test_head_on_a_gpu():
    """2^28 logits of float32 are 1 GiB. More than one chunk: the last one's are there until the next have been made."""
    given = head(1 << 17, 64, torch.bfloat16)
    assert chunk_tokens(1 << 17, torch.device("cuda")) == 2_048
    one = head_memory(given, 2_048, device="cuda", trains=True)
    assert one.chunk == (1 << 30) * 3 // 2
    several = head_memory(given, 4_096, device="cuda", trains=True)
    assert several.chunk == (1 << 30) * 5 // 2
    assert several.gradient == 4 * (1 << 17) * 64
    assert several.kept_gradient == 2 * (1 << 17) * 64
    assert head_memory(given, 4_096, device="cuda", trains=False).chunk == 2 << 30
    assert head_memory(head(1 << 17, 64, torch.bfloat16, trained=False), 9, device="cuda", trains=True).gradient == 0


def test_a_wide_head_takes_most_when_its_gradient_is_copied():
    """1 token: the chunk is small, and the gradient is there in float32 and in bfloat16."""
    found = head_memory(head(1 << 10, 64, torch.bfloat16), 1, device="cuda", trains=True)
    assert found.chunk == 1_024 * 4 * 3 // 2
    assert found.gradient == (4 + 2) * 1_024 * 64


def test_head_on_a_cpu():
    """2^23 logits of float32 are 32 MiB; statistics take two more."""
    given = head(1 << 15, 64, torch.float32)
    assert chunk_tokens(1 << 15, torch.device("cpu")) == 256
    assert head_memory(given, 100, device="cpu", trains=True).chunk == 2 * 100 * (1 << 17)
    assert head_memory(given, 10_000, device="cpu", trains=True).chunk == 3 << 25
    assert head_memory(given, 10_000, device="cpu", trains=False).chunk == 2 << 25
    assert head_memory(given, 10_000, device="cpu", trains=False, statistics=True).chunk == 3 << 25
    half = head_memory(head(1 << 15, 64, torch.bfloat16), 100, device="cpu", trains=False)
    assert half.chunk == 2 * 100 * (1 << 17) + 4 * 64 * (1 << 15)
