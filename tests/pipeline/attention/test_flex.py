"""Flex attention, on a CPU without its kernel: the masks, the numbers and how often something is compiled.

Blocks are 128 x 128, so rows here are longer than elsewhere where whole blocks are meant to appear.
"""

import numpy as np
import pytest
import torch
import torch._dynamo
import transformers as tr
from tiny_models import SHAPE, SHARED, SHARED_ON_GPU, plain_token_logps, random_rows, tiny_model
from torch._dynamo.utils import counters
from torch.nn.attention import flex_attention
from torch.nn.attention.flex_attention import create_block_mask

from scoreonce.pipeline.attention import flex
from scoreonce.pipeline.batches.prompt_rows import (
    FLEX_BLOCK,
    PADDING,
    PromptRow,
    attention_mask,
    collate,
    sequence_multiple,
)
from scoreonce.pipeline.forward import layout_probe as probe
from scoreonce.pipeline.forward.layout_probe import choose_layout
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),  # Dynamo looks at it
]


def ids(length):
    return np.arange(length, dtype=np.int32)


LONG = [PromptRow(ids(300), (ids(300), ids(200))), PromptRow(ids(1), (ids(1), ids(140))), *random_rows(8)]


def dense(visible):
    """(lines, length, length) bool of the runs of places that each position sees."""
    key = torch.arange(visible.own.shape[1])
    own = (visible.own.unsqueeze(2) <= key) & (key <= key.unsqueeze(1))
    return own | ((visible.first.unsqueeze(2) <= key) & (key < visible.last.unsqueeze(2)))


@pytest.mark.parametrize("window", [None, 1, 6, 130, 400])
def test_two_runs_of_places_are_the_mask(window):
    for rows in (LONG, random_rows(12)):
        batch = collate(rows, "flex")
        assert torch.equal(dense(flex.key_runs(batch, window)), attention_mask(batch, window)[:, 0])


def test_several_lines_are_masked_each_by_its_own():
    batch = collate([PromptRow(ids(100), (ids(29), ids(1))), PromptRow(ids(50), (ids(40), ids(40)))], "shared")
    assert batch.segments.shape == (2, FLEX_BLOCK)
    assert torch.equal(dense(flex.key_runs(batch)), attention_mask(batch)[:, 0])


@pytest.mark.parametrize(("window", "whole_blocks"), [(None, True), (150, False), (400, True)])
def test_blocks_are_those_of_torch(window, whole_blocks):
    """Against torch's own way, which makes the whole (length, length) mask first."""
    batch = collate(LONG, "flex")
    whole, length = attention_mask(batch, window)[0, 0], batch.segments.shape[1]
    expected = create_block_mask(lambda b, h, q, k: whole[q, k], 1, 1, length, length, device="cpu")
    ours = flex.block_mask(batch, window)
    assert torch.equal(ours.to_dense(), expected.to_dense())
    assert torch.equal(ours.full_kv_num_blocks, expected.full_kv_num_blocks)
    assert bool(expected.full_kv_num_blocks.sum() > 0) == whole_blocks


def test_lines_are_padded_to_a_multiple():
    """9 tokens in a line of 128, of 256 where asked; a budget of 16,384 gives eight lengths, 2,048 apart."""
    rows = [PromptRow(ids(5), (ids(5),))]
    assert collate(rows, "flex").input_ids.shape == (1, 128)
    batch = collate(rows, "flex", 256)
    assert batch.segments[0, 9:].tolist() == [PADDING] * 247
    assert sequence_multiple(16_384) == 2048
    assert sequence_multiple(1_000) == FLEX_BLOCK


@pytest.mark.parametrize("name", [name for name in (*SHARED, *SHARED_ON_GPU) if name != "gpt2_absolute_positions"])
def test_token_logps_equal_plain_transformers(name):
    model, prompt_rows = tiny_model(name), random_rows(6)
    expected = plain_token_logps(model, prompt_rows)
    flex.switch_on(model)
    with torch.no_grad():
        ours = TokenScorer(model, "flex")(prompt_rows)
    assert (ours.token_logps.double() - expected).abs().max() < 1e-5


@pytest.mark.parametrize("width", [2, 10, 20, 24])
def test_heads_of_any_width(width):
    """Below 16 the kernel has none, and above it only powers of two; torch rounds those up."""
    torch.manual_seed(0)
    model = tr.AutoModelForCausalLM.from_config(tr.LlamaConfig(**SHAPE, head_dim=width)).eval()
    prompt_rows = random_rows(6)
    expected = plain_token_logps(model, prompt_rows)
    flex.switch_on(model)
    with torch.no_grad():
        found = TokenScorer(model, "flex")(prompt_rows).token_logps
    assert (found.double() - expected).abs().max() < 2e-5


def test_scores_are_scaled_by_the_width_before_zeros_are_added():
    """Where a model leaves the scale to its attention: against torch's own, with heads of 10."""
    batch = collate(random_rows(3), "flex")
    query, key, value = torch.randn(3, 1, 2, batch.segments.shape[1], 10)
    found, _ = flex._attend(torch.nn.Module(), query, key, value, flex.block_mask(batch))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask(batch))
    torch.testing.assert_close(found.transpose(1, 2), expected, rtol=1e-4, atol=1e-5)


def test_the_kernel_sees_no_head_below_its_smallest_width(monkeypatch):
    seen, honest = [], flex.flex_attention

    def watched(query, key, value, **settings):
        seen.extend(each.shape[-1] for each in (query, key, value))
        return honest(query, key, value, **settings)

    monkeypatch.setattr(flex, "flex_attention", watched)
    model = tiny_model("llama")  # heads of 8
    flex.switch_on(model)
    with torch.no_grad():
        TokenScorer(model, "flex")(random_rows(2))
    assert set(seen) == {flex.SMALLEST_WIDTH}


@pytest.mark.parametrize("name", ["mistral_sliding", "gemma3_sliding"])
def test_rows_past_the_window(name):
    """Windows of 6 in lines of several blocks: also blocks that hold nothing visible."""
    random = np.random.default_rng(0)
    rows = [PromptRow(random.integers(3, 97, 90), tuple(random.integers(3, 97, 80) for _ in range(3)))]
    model = tiny_model(name)
    expected = plain_token_logps(model, rows)
    flex.switch_on(model)
    with torch.no_grad():
        assert (TokenScorer(model, "flex")(rows).token_logps.double() - expected).abs().max() < 1e-5


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["llama", "mistral_sliding", "gemma2_softcap_sliding", "gpt_oss_sinks_sliding"])
def test_gradients_equal_the_padded_ones(monkeypatch, name, compiled):
    """Torch refuses a CPU's gradient because the kernel has none; uncompiled it is there all the same."""
    torch._dynamo.reset()
    monkeypatch.setattr(flex_attention, "_validate_device", lambda query, key, value: None)
    gradients = {}
    for layout in ("padded", "flex"):
        model = tiny_model(name)
        if layout == "flex":
            flex.switch_on(model)
            if compiled:
                flex.compile_blocks(model, backend="aot_eager")
        TokenScorer(model, layout)(random_rows(4)).sums().sum().backward()
        gradients[layout] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert (gradients["flex"] - gradients["padded"]).norm() < 1e-5 * gradients["padded"].norm()


@pytest.mark.parametrize("what", ["kernel", "blocks"])
@pytest.mark.parametrize("name", ["llama", "mistral_sliding", "gemma2_softcap_sliding"])
def test_one_length_is_compiled_once(monkeypatch, name, what):
    """Other rows in lines as long need no other kernel, nor do other layers, with or without a window."""
    torch._dynamo.reset()
    model = tiny_model(name)
    flex.switch_on(model)
    if what == "kernel":
        compiled = torch.compile(flex.flex_attention, dynamic=False, fullgraph=True, backend="eager")
        monkeypatch.setattr(flex, "_kernel", lambda query: compiled)
    else:
        flex.compile_blocks(model, backend="eager")
    scorer = TokenScorer(model, "flex", multiple=512)
    counters.clear()
    with torch.no_grad():
        for seed in range(3):
            rows = random_rows(8, seed)
            expected = plain_token_logps(tiny_model(name), rows)
            assert (scorer(rows).token_logps.double() - expected).abs().max() < 2e-5
            assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_a_sink_is_one_more_key_without_a_value():
    """Two scores of log 2 and log 3 and a sink of log 5: the keys have (2 + 3) / 10 of the softmax."""
    lse = torch.tensor([[[5.0]], [[1e4]]]).log()  # (2 sequences, 1 head, 1 position)
    share = flex.share_beside_sinks(lse, torch.tensor([5.0]).log())
    torch.testing.assert_close(share[:, 0, 0], torch.tensor([0.5, 1e4 / (1e4 + 5)]))
    scores, sink = torch.randn(1, 2, 3, 7), torch.tensor([0.3, -40.0])
    whole = torch.cat([scores, sink.view(1, 2, 1, 1).expand(1, 2, 3, 1)], dim=-1).softmax(-1)[..., :-1]
    ours = scores.softmax(-1) * flex.share_beside_sinks(scores.logsumexp(-1), sink).unsqueeze(-1)
    torch.testing.assert_close(ours, whole)


def test_switched_attention_refuses_other_masks():
    """A mask that is not for prompt rows would be silently no mask at all."""
    model = tiny_model("llama")
    flex.switch_on(model)
    with pytest.raises(ValueError, match="a BlockMask only"):
        TokenScorer(model, "padded")(random_rows(2))


def test_probe_prefers_block_masks_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(probe, "FORWARD_ONLY", ())
    monkeypatch.setattr(probe, "_candidates", lambda *_, **__: (("flex",), ("shared",)))
    model = tiny_model("mistral_sliding")
    found = choose_layout(model, "auto", longest_row=60)
    assert (found.layout, found.reason, model.config._attn_implementation) == ("flex", "", flex.NAME)


def test_probe_leaves_block_masks_that_are_wrong(monkeypatch):
    """A block mask without the window is wrong past it; the model then attends as before."""
    monkeypatch.setattr(probe, "FORWARD_ONLY", ())
    monkeypatch.setattr(probe, "_candidates", lambda *_, **__: (("flex",), ("shared",)))
    honest = flex.key_runs
    monkeypatch.setattr(flex, "key_runs", lambda batch, window: honest(batch))
    model = tiny_model("mistral_sliding")
    found = choose_layout(model, "auto", longest_row=60)
    assert (found.layout, model.config._attn_implementation) == ("shared", "sdpa")
    assert "flex: differs from padded rows" in found.reason


def test_probe_runs_compiled_blocks(monkeypatch):
    """Compiled blocks that are wrong are found, and undone with the attention."""
    monkeypatch.setattr(probe, "FORWARD_ONLY", ())
    monkeypatch.setattr(probe, "_candidates", lambda *_, **__: (("flex",), ("shared",)))
    honest = flex.compile_blocks
    torch._dynamo.reset()
    monkeypatch.setattr(flex, "compile_blocks", lambda model: honest(model, backend="eager"))
    model = tiny_model("llama")
    assert choose_layout(model, "auto", longest_row=60, compiled=True).layout == "flex"
    assert model.model.layers[0]._compiled_call_impl is not None

    def wrong(graph, inputs):
        return lambda *arguments: [output * 1.01 for output in graph(*arguments)]

    torch._dynamo.reset()
    monkeypatch.setattr(flex, "compile_blocks", lambda model: honest(model, backend=wrong))
    model = tiny_model("llama")
    assert choose_layout(model, "auto", longest_row=60, compiled=True).layout == "shared"
    assert model.model.layers[0]._compiled_call_impl is None


def test_probe_goes_backward_where_a_model_trains(monkeypatch):
    """On a CPU flex attention has no gradient, as on a GPU whose shared memory its backward kernel does not fit."""
    monkeypatch.setattr(probe, "FORWARD_ONLY", ())
    monkeypatch.setattr(probe, "_candidates", lambda *_, **__: (("flex",), ("shared",)))
    model = tiny_model("llama")
    found = choose_layout(model, "auto", longest_row=60, trains=True)
    assert (found.layout, model.config._attn_implementation) == ("shared", "sdpa")
    assert "backward on CPU" in found.reason
    assert all(parameter.grad is None for parameter in model.parameters())


def test_probe_says_what_a_model_makes_of_a_block_mask(monkeypatch):
    monkeypatch.setattr(probe, "FORWARD_ONLY", ())
    monkeypatch.setattr(probe, "_candidates", lambda *_, **__: (("flex",), ("shared",)))
    found = choose_layout(tiny_model("gpt2_absolute_positions"), "auto", longest_row=60)
    assert found.layout == "shared"
    assert "AttributeError" in found.reason


def test_a_cpu_is_refused():
    with pytest.raises(InputError) as caught:
        choose_layout(tiny_model("llama"), "flex", longest_row=60)
    assert "no backward pass on a CPU" in str(caught.value)
