"""The form of an output head is found out by running it, whatever the configuration says."""

import pytest
import torch
import transformers as tr
from tiny_models import OWN, SHAPE, plain_token_logps, random_rows, tiny_model

from scoreonce.pipeline.forward import architecture, head_probe
from scoreonce.pipeline.forward.architecture import HeadForm
from scoreonce.pipeline.forward.layout_probe import choose_layout
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError


@pytest.fixture
def _nothing_declared(monkeypatch):
    monkeypatch.setattr(architecture, "declared_form", lambda model: HeadForm())


def found_in(model):
    head_probe.understand_head(model)
    head = architecture.head_of(model)
    return head.scale, head.softcap, len(head.weight)


@pytest.mark.usefixtures("_nothing_declared")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "scale", "softcap"),
    [
        ("llama", 1.0, None),
        ("phi_head_bias", 1.0, None),
        ("gemma2_softcap_sliding", 1.0, 3.0),
        ("cohere_logit_scale", 0.25, None),
        ("granite_logits_scaling", 0.25, None),
    ],
)
def test_form_that_is_not_declared(name, scale, softcap, dtype):
    """The numbers that tiny_models gives the configurations, though nobody reads them."""
    assert found_in(tiny_model(name, dtype)) == (scale, softcap, 97)


@pytest.mark.usefixtures("_nothing_declared")
def test_scale_and_cap_together():
    """Cohere multiplies by 1 / 24, and a cap of 5 behind it: logits of 4 become 0.17, far below the cap."""
    model = tiny_model("cohere_logit_scale")
    model.logit_scale = 1 / 24
    model.forward = changed(model.forward, lambda logits: 5 * torch.tanh(logits / 5))
    scale, softcap, _ = found_in(model)
    assert scale == pytest.approx(1 / 24, rel=1e-6)
    assert softcap == 5.0


def changed(forward, change):
    """A model's forward with its logits changed."""

    def made(*args, **kwargs):
        output = forward(*args, **kwargs)
        output["logits"] = change(output.logits)
        return output

    return made


def test_a_cap_that_usual_logits_hardly_reach():
    """RecurrentGemma caps at 30 under a name of its own: 1.6e-4 nats here, which its log-probs alone do not show."""
    config = tr.RecurrentGemmaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        lru_width=32,
        **OWN,
    )
    assert found_in(tr.AutoModelForCausalLM.from_config(config).eval()) == (1.0, 30.0, 97)


def test_a_vocabulary_that_is_padded():
    """Logits of 90 tokens from a projection to 97: the last 7 are not in the sum."""
    model, rows = tiny_model("llama"), [row for row in random_rows(20) if max(c.max() for c in row.completions) < 90]
    model.forward = changed(model.forward, lambda logits: logits[..., :90])
    assert choose_layout(model, "auto", 60).layout == "packed"
    assert len(architecture.head_of(model).weight) == 90
    ours = TokenScorer(model, "packed")(rows)
    assert (ours.token_logps.double() - plain_token_logps(model, rows)).abs().max() < 3e-5
    ours.sums().sum().backward()
    assert model.lm_head.weight.grad[90:].abs().max() == 0


def test_the_decoder_inside_of_the_body():
    """OPT's causal model calls the decoder in its body, not the body."""
    sizes = {key: size for key, size in SHAPE.items() if key not in ("intermediate_size", "initializer_range")}
    model = tr.AutoModelForCausalLM.from_config(tr.OPTConfig(**sizes, word_embed_proj_dim=32, ffn_dim=64)).eval()
    assert found_in(model) == (1.0, None, 97)


@pytest.mark.parametrize(
    "change", [torch.relu, lambda logits: torch.cat([logits, logits], -1), lambda logits: logits * 0]
)
def test_other_heads_are_refused(change):
    model = tiny_model("llama")
    model.forward = changed(model.forward, change)
    with pytest.raises(InputError, match="head of LlamaForCausalLM is not understood"):
        choose_layout(model, "auto", 60)


@pytest.mark.parametrize("name", ["bert", "electra"])
def test_layers_between_body_and_projection_are_refused(name):
    """Electra's projection takes another width than its body has."""
    config = tr.AutoConfig.for_model(
        name,
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        is_decoder=True,
    )
    with pytest.raises(InputError, match=r"head of \w+ is not understood"):
        choose_layout(tr.AutoModelForCausalLM.from_config(config).eval(), "auto", 60)


def test_hooks_are_gone_and_nothing_has_a_gradient():
    model = tiny_model("llama")
    before = model(torch.arange(3, 9)[None]).logits
    head_probe.understand_head(model)
    assert torch.equal(model(torch.arange(3, 9)[None]).logits, before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("number", "declarable"),
    [
        (0.25000001, 0.25),
        (0.041666668, 1 / 24),
        (29.999998, 30.0),
        (0.123456789, 1 / 8.1),
        (-2.0000001, -2.0),
    ],
)
def test_declarable(number, declarable):
    """The shortest decimal, or 1 over it, within 3e-7 of what was measured."""
    assert head_probe._declarable(number, 3e-7) == pytest.approx(declarable, rel=1e-12)
