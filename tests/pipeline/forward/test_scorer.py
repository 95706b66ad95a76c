import pytest
import torch
import transformers as tr
from tiny_models import PADDED_ONLY, SHARED, plain_token_logps, random_rows, tiny_model

from scoreonce.pipeline.attention.cpu_rows import RowMask
from scoreonce.pipeline.batches import prompt_rows as rows
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.layout_probe import choose_layout
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
@pytest.mark.parametrize("name", SHARED)
def test_token_logps_equal_plain_transformers(name, layout):
    model, prompt_rows = tiny_model(name), random_rows(6)
    with torch.no_grad():
        ours = TokenScorer(model, layout)(prompt_rows)
    # Against float64. Transformers' own float32 shows what rounding does: 1.5e-5 for qwen2, whose weights are large.
    exact = plain_token_logps(tiny_model(name, torch.float64), prompt_rows)
    rounding = (plain_token_logps(model, prompt_rows).double() - exact).abs().max()
    # The largest of a few hundred roundings differs by processor: with plain instructions twice that of transformers.
    assert (ours.token_logps.double() - exact).abs().max() < max(1e-5, 4 * rounding)
    assert ours.lengths.tolist() == [len(c) for row in prompt_rows for c in row.completions]


@pytest.mark.parametrize("name", ["llama", "gemma2_softcap_sliding", "gpt2_absolute_positions", "phi_head_bias"])
def test_gradients_equal_plain_transformers(name):
    """Both layouts against autograd through the model's own logits, to float32 rounding."""
    prompt_rows = random_rows(3)
    grads = {}
    for layout in ("shared", "packed", "padded", "plain"):
        model = tiny_model(name)
        if layout == "plain":
            total = sum(
                _plain_sum(model, row.prompt, c) * (k + 1) for row in prompt_rows for k, c in enumerate(row.completions)
            )
        else:
            sums = TokenScorer(model, layout)(prompt_rows).sums()
            total = (sums * torch.tensor([k + 1.0 for row in prompt_rows for k in range(len(row.completions))])).sum()
        total.backward()
        grads[layout] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    for layout in ("shared", "packed", "padded"):
        assert (grads[layout] - grads["plain"]).norm() < 1e-5 * grads["plain"].norm()


def _plain_sum(model, prompt, completion):
    ids = torch.tensor([*prompt, *completion], dtype=torch.long)
    logps = model(ids[None]).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    return logps.gather(1, ids[len(prompt) :, None]).sum()


def test_batch_size_does_not_change_scores():
    scorer, prompt_rows = TokenScorer(tiny_model("llama"), "shared"), random_rows(8)
    with torch.no_grad():
        together = scorer(prompt_rows).token_logps
        alone = torch.cat([scorer([row]).token_logps for row in prompt_rows])
    assert (together - alone).abs().max() < 1e-5


def test_sums_are_float64_per_completion():
    scorer, prompt_rows = TokenScorer(tiny_model("llama"), "shared"), random_rows(4)
    with torch.no_grad():
        scored = scorer(prompt_rows)
    parts = scored.token_logps.double().split(scored.lengths.tolist())
    assert scored.sums().dtype == torch.float64
    torch.testing.assert_close(scored.sums(), torch.stack([part.sum() for part in parts]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SHARED)
def test_probe_shares_prompts_where_that_is_exact(name):
    found = choose_layout(tiny_model(name), "auto", longest_row=60)
    assert found.layout == ("shared" if name.startswith("gemma2") else "packed")
    assert found.deviation < 1e-5


def test_probe_tries_the_layout_that_was_asked_for():
    assert choose_layout(tiny_model("llama"), "packed", longest_row=60).layout == "packed"
    assert choose_layout(tiny_model("llama"), "padded", longest_row=60).layout == "padded"


@pytest.mark.parametrize("name", PADDED_ONLY)
@pytest.mark.filterwarnings("ignore")
def test_probe_falls_back_and_says_why(name):
    model = tiny_model(name)
    assert choose_layout(model, "auto", longest_row=60).layout == "padded"
    assert choose_layout(model, "auto", longest_row=60).reason
    with pytest.raises(InputError, match="cannot share prompts"):
        choose_layout(model, "shared", longest_row=60)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_probe_sees_a_window_that_the_mask_forgot(monkeypatch, attention):
    """A mask without the sliding window is silently wrong; only rows past the window show it."""
    model = tiny_model("mistral_sliding")
    model.set_attn_implementation(attention)
    by_rows, dense = RowMask.of, rows.attention_mask
    monkeypatch.setattr(RowMask, "of", lambda prompt_rows, batch, window: by_rows(prompt_rows, batch))
    monkeypatch.setattr(architecture, "attention_mask", lambda batch, window: dense(batch))
    found = choose_layout(model, "auto", longest_row=60)
    assert found.layout == "padded"
    assert "differ" in found.reason
    assert ("packed: " in found.reason) == (attention == "sdpa")


def test_probe_refuses_a_model_that_reads_ahead():
    """A model of the BERT family attends to what follows, unless its configuration says that it is a decoder."""
    sizes = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    for is_decoder in (True, False):
        config = tr.BertGenerationConfig(**sizes, intermediate_size=64, initializer_range=0.3, is_decoder=is_decoder)
        model = tr.AutoModelForCausalLM.from_config(config).eval()
        if is_decoder:
            assert choose_layout(model, "auto", longest_row=60).layout == "packed"
            continue
        with pytest.raises(InputError, match="BertGenerationDecoder is no causal language model") as caught:
            choose_layout(model, "auto", longest_row=60)
        assert "is_decoder" in caught.value.fix


def test_probe_refuses_a_model_that_depends_on_its_batch():
    model = tiny_model("llama")
    # As if the sequences beside it changed this one: by their number.
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: output * (1 + args[0].shape[0] / 100))
    with pytest.raises(InputError, match="other log-probs in a padded batch") as caught:
        choose_layout(model, "auto", longest_row=60)
    assert "LlamaForCausalLM" in caught.value.what


def test_probe_packs_a_model_whose_last_block_attends_twice():
    """Its second attention reads the first one's output at every position, so none of it may be skipped."""
    model = tiny_model("llama")
    layer = model.model.layers[-1]
    model.model.layers[-1] = Twice(layer)
    model._no_split_modules = ["Twice", "LlamaDecoderLayer"]
    assert choose_layout(model, "auto", longest_row=60).layout == "packed"


class Twice(torch.nn.Module):
    """A block that runs another one twice."""

    def __init__(self, block):
        super().__init__()
        self.block, self.attention_type = block, "full_attention"

    def forward(self, states, **kwargs):
        return self.block(self.block(states, **kwargs), **kwargs)


def test_half_precision_is_probed_with_its_own_rounding():
    assert choose_layout(tiny_model("llama", torch.bfloat16), "auto", longest_row=60).layout == "packed"
