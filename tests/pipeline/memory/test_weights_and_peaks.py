"""Weights and peaks of memory, with numbers worked out by hand."""

import pytest
import torch
import transformers as tr

from scoreonce.pipeline.memory.head_memory import HeadMemory
from scoreonce.pipeline.memory.microbatch import MicrobatchMemory
from scoreonce.pipeline.memory.optimizer_memory import state_size, step_bytes
from scoreonce.pipeline.memory.peaks import Plan, offloaded_bytes, scoring_peak, training_peak
from scoreonce.pipeline.memory.sizes import Sizes
from scoreonce.pipeline.memory.weights import NF4_BYTES, weights_of
from scoreonce.stages.models.adapters import with_new_lora
from scoreonce.stages.models.lora import Lora

# A Llama of 2 layers. A layer: queries and output 2 x 32 x 32, keys and values 2 x 16 x 32, feed-forward 3 x 64 x 32,
# two norms of 32: 2,048 + 1,024 + 6,144 + 64.
LAYER, EMBEDDING, NORM = 9_280, 97 * 32, 32
WHOLE = 2 * LAYER + 2 * EMBEDDING + NORM


def llama(dtype=torch.float32, *, tied=False):
    config = tr.LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        return tr.AutoModelForCausalLM.from_config(config, dtype=dtype)


def sizes(dtype=torch.float32, *, tied=False, head_gradient=0, kept=1_000, accumulates=True, model=None):
    """Of a micro-batch that keeps 1,000 bytes and takes 1,600 at most, and a head that takes 500."""
    model = model or llama(dtype, tied=tied)
    return Sizes(
        weights_of(model),
        MicrobatchMemory(10, 5, kept, kept + 600, 250, 0),
        HeadMemory(500, head_gradient, head_gradient),
        dtype.itemsize,
        accumulates,
        EMBEDDING,
        0,
    )


def test_weights_of_a_llama():
    found = weights_of(llama())
    assert found.whole.count == found.whole.trained == WHOLE
    assert found.whole.bytes == 4 * WHOLE
    assert (found.block.count, found.blocks, found.outside.count) == (LAYER, 2, 2 * EMBEDDING + NORM)
    assert found.largest_trained == EMBEDDING
    assert found.whole.trained_half == 0
    assert not found.tied


def test_tied_weights_count_once():
    found = weights_of(llama(torch.bfloat16, tied=True))
    assert found.whole.count == WHOLE - EMBEDDING
    assert found.whole.bytes == 2 * (WHOLE - EMBEDDING)
    assert found.whole.trained_half == WHOLE - EMBEDDING
    assert found.tied


def test_lora_trains_its_matrices_alone():
    """Rank 2 on queries, 2 x (32 + 32), in each of two layers; PEFT makes them in float32."""
    pytest.importorskip("peft")
    model = with_new_lora(llama(torch.bfloat16), Lora(2, 4.0, ("q_proj",)))
    found = weights_of(model)
    assert found.whole.trained == 2 * 2 * (32 + 32)
    assert found.whole.trained_bytes == 4 * found.whole.trained
    assert found.whole.bytes == 2 * WHOLE + found.whole.trained_bytes
    assert found.frozen_linear == 2 * (LAYER - 2 * 32)  # all but norms


@pytest.mark.parametrize(
    ("dtype", "optimizer", "expected"),
    [
        (torch.float32, "adamw_torch", {"weights": 4, "gradients": 4, "optimizer state": 8}),
        (torch.float32, "sgd", {"weights": 4, "gradients": 4}),
        (torch.bfloat16, "adamw_torch", {"weights": 2, "master weights": 4, "gradients": 2, "optimizer state": 8}),
    ],
)
def test_bytes_per_weight(dtype, optimizer, expected):
    """AdamW: 16 bytes per weight, in float32 as in half precision with masters."""
    found = training_peak(sizes(dtype, kept=10**6), Plan("cpu", 1, "none"), optimizer=optimizer)
    assert {name: size / WHOLE for name, size in found.parts.items() if size % WHOLE == 0} == expected
    assert found.parts["activations"] == 10**6 + 600
    assert found.moment == "the backward pass of the blocks"
    assert found.bytes == sum(expected.values()) * WHOLE + 10**6 + 600


def test_the_moment_that_takes_most():
    """Blocks 1,600; head 1,000 + 500 + its gradient; step: no activations, but two tensors of the largest weight."""
    plan = Plan("cpu", 1, "none")
    assert training_peak(sizes(), plan, optimizer="sgd").moment == "the backward pass of the blocks"
    head = training_peak(sizes(head_gradient=700), plan, optimizer="sgd")
    assert head.moment == "the backward pass begins"
    assert head.parts["chunk of logits"] + head.parts["activations"] + head.parts["gradient of the head"] == 2_200
    step = training_peak(sizes(), plan, optimizer="adamw_torch")
    assert step.moment == "the optimizer's step"
    assert step.parts["temporaries of the step"] == 2 * 4 * EMBEDDING
    assert "activations" not in step.parts


def test_a_gpu_steps_all_weights_at_once_unless_fused():
    """Half precision at the step: weights 2, masters 4, their gradients 4, state 8, a tensor beside each 4."""
    plan = Plan("cuda", 1, "none")
    found = training_peak(sizes(torch.bfloat16), plan, optimizer="adamw_torch")
    assert found.bytes == (2 + 4 + 4 + 8 + 4) * WHOLE
    fused = training_peak(sizes(torch.bfloat16), plan, optimizer="adamw_torch_fused")
    assert fused.bytes == (2 + 4 + 4 + 8) * WHOLE


def test_an_offloaded_optimizer_leaves_weights_and_gradients():
    """In half precision 2 + 2 bytes per weight at the step; the CPU has masters 4, their gradients 4, state 8."""
    given = sizes(torch.bfloat16, kept=0)
    plan = Plan("cuda", 1, "none", offload_optimizer=True)
    found = training_peak(given, plan, optimizer="adamw_torch")
    assert found.parts == {"weights": 2 * WHOLE, "gradients": 2 * WHOLE, "activations": 600}
    assert offloaded_bytes(given, "adamw_torch") == 16 * WHOLE
    kept = training_peak(sizes(kept=0), Plan("cpu", 1, "none", offload_optimizer=True), optimizer="adamw_torch").parts
    assert kept["master weights"] == 4 * WHOLE  # on a CPU they are beside the weights
    assert kept["optimizer state"] == 8 * WHOLE


def test_the_first_micro_batch_has_no_gradients_yet():
    """In the blocks those that the micro-batch says, 250, and that of the head, 400."""
    given = sizes(kept=10**6, head_gradient=400, accumulates=False)
    found = training_peak(given, Plan("cpu", 1, "none"), optimizer="sgd")
    assert found.parts == {"weights": 4 * WHOLE, "gradients": 650, "activations": 10**6 + 600}


def test_ddp_has_gradients_twice():
    one, two = (training_peak(sizes(kept=10**6), Plan("cuda", gpus, "none"), optimizer="sgd").parts for gpus in (1, 2))
    assert two == one | {"DDP buckets": 4 * WHOLE}


def test_full_sharding_divides_by_the_gpus():
    """Float32 weights, gradients and state over 4; gathered: what is outside, and two blocks, in bfloat16.

    To be reduced: the gradient of what is outside in bfloat16; of a block in bfloat16 and float32.
    """
    found = training_peak(
        sizes(torch.bfloat16, kept=10**6), Plan("cuda", 4, "full"), optimizer="adamw_torch", extra={"more": 7}
    )
    outside = 2 * EMBEDDING + NORM
    assert found.parts == {
        "weights": WHOLE,
        "gradients": WHOLE,
        "optimizer state": 2 * WHOLE,
        "gathered weights": 2 * (outside + 2 * LAYER),
        "gradients to be reduced": 2 * outside + 6 * LAYER,
        "activations": 10**6 + 600,
        "more": 7,
    }


def test_hybrid_sharding_divides_by_the_gpus_of_a_machine():
    given = sizes(torch.bfloat16, kept=10**6)
    hybrid = training_peak(given, Plan("cuda", 16, "hybrid", per_machine=4), optimizer="adamw_torch")
    assert hybrid == training_peak(given, Plan("cuda", 4, "full"), optimizer="adamw_torch")


def test_what_is_offloaded_is_counted_for_the_host():
    """Float32 weights, gradients and state over 4, as without; gathered weights and activations stay."""
    given = sizes(torch.bfloat16, kept=10**6)
    kept = training_peak(given, Plan("cuda", 4, "full"), optimizer="adamw_torch")
    found = training_peak(given, Plan("cuda", 4, "full", offload=True), optimizer="adamw_torch")
    assert (kept.host, found.host) == (0, (1 + 1 + 2) * WHOLE)
    assert kept.parts == found.parts | {"weights": WHOLE, "gradients": WHOLE, "optimizer state": 2 * WHOLE}
    scored = scoring_peak(sizes(model=llama().requires_grad_(False)), Plan("cuda", 4, "full", offload=True))
    assert scored.host == WHOLE
    assert "weights" not in scored.parts


def test_four_bits():
    """Linear layers in 4.13 bits per weight, the rest in bfloat16."""
    pytest.importorskip("peft")
    model = with_new_lora(llama(torch.bfloat16), Lora(2, 4.0, ("q_proj",)))
    given = sizes(torch.bfloat16, kept=10**6, model=model)
    found = training_peak(given, Plan("cuda", 1, "none", nf4=True), optimizer="adamw_torch")
    linear, lora = 2 * (LAYER - 64), 2 * 2 * 64
    assert pytest.approx(8 * NF4_BYTES, abs=0.01) == 4.127
    assert found.parts["weights"] == round(NF4_BYTES * linear) + 2 * (WHOLE - linear) + 4 * lora
    assert found.parts["activations"] == 10**6 + 600 + 2 * 64 * 32  # one layer in bfloat16 at a time


def test_scoring_keeps_weights_alone():
    model = llama(torch.bfloat16).requires_grad_(False)
    given = sizes(torch.bfloat16, model=model)
    assert scoring_peak(given, Plan("cuda", 8, "none")).parts == {"weights": 2 * WHOLE, "activations": 1_600}
    sharded = scoring_peak(given, Plan("cuda", 8, "full")).parts
    assert sharded["weights"] == 2 * WHOLE // 8
    assert sharded["gathered weights"] == 2 * (2 * EMBEDDING + NORM + 2 * LAYER)


def test_laying_weights_out_takes_them_twice():
    """Before a forward pass that takes less than the float32 copies."""
    plan = Plan("cpu", 1, "none", lays_out=True)
    found = scoring_peak(sizes(model=llama().requires_grad_(False)), plan)
    assert found.moment == "the weights are laid out"
    assert found.parts == {"weights": 4 * WHOLE, "weights laid out": 4 * WHOLE}
    found = scoring_peak(sizes(kept=4 * WHOLE + 1, model=llama().requires_grad_(False)), plan)
    assert "weights laid out" not in found.parts
    gpt2 = tr.GPT2LMHeadModel(tr.GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=2)).requires_grad_(False)
    assert "weights laid out" not in scoring_peak(sizes(model=gpt2), plan).parts  # its layers are none of nn.Linear
    half = sizes(torch.bfloat16, model=llama(torch.bfloat16).requires_grad_(False))
    assert scoring_peak(half, plan) == scoring_peak(half, Plan("cpu", 1, "none"))


def test_weights_that_move_are_there_twice():
    """Before a pass that takes less than the second copy: in any dtype, and before training of a few weights too."""
    plan = Plan("cpu", 1, "none", moves=True)
    for dtype, element in ((torch.float32, 4), (torch.bfloat16, 2)):
        given = sizes(dtype, model=llama(dtype).requires_grad_(False))
        twice = {"weights": element * WHOLE, "file of the weights": element * WHOLE}
        for found in (scoring_peak(given, plan), training_peak(given, plan, optimizer="adamw_torch")):
            assert (found.moment, found.parts) == ("the weights move to huge pages", twice)
        assert scoring_peak(given, Plan("cpu", 1, "none")).parts["weights"] == element * WHOLE
    whole = sizes(kept=10**6)
    expected = training_peak(whole, Plan("cpu", 1, "none"), optimizer="adamw_torch")
    assert training_peak(whole, plan, optimizer="adamw_torch") == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adamw_torch", 8),
        ("adamw_torch_fused", 8),
        ("adamw_torch_8bit", 2 * (1 + 4 / 256)),
        ("adamw_bnb_8bit", 2 * (1 + 4 / 256)),
        ("paged_adamw_32bit", 8),
        ("lion_32bit", 4),
        ("lion_8bit", 1 + 4 / 256),
        ("rmsprop", 4),
        ("sgd", 0),
    ],
)
def test_state_of_an_optimizer(name, expected):
    assert state_size(name) == (expected, True)


def test_the_state_of_adamw_is_what_torch_keeps():
    weight = torch.nn.Parameter(torch.ones(100, 10))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    kept = sum(each.nbytes for each in optimizer.state[weight].values() if each.ndim)
    assert kept == state_size("adamw_torch").per_weight * weight.numel()


def test_an_optimizer_that_is_not_known_counts_as_adam():
    assert state_size("galore_adamw") == (8, False)


def test_step_of_sgd():
    """Without weight decay it changes weights in place; with it, it makes a decayed gradient."""
    given = {"trained": 1_000, "largest": 100}
    assert step_bytes("sgd", device="cuda", decays=False, **given) == 0
    assert step_bytes("sgd", device="cuda", decays=True, **given) == 4_000
    assert step_bytes("sgd", device="cpu", decays=True, **given) == 400
