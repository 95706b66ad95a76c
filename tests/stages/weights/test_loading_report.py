"""Weights are complete or refused: a model and an adapter are exactly what their files hold."""

import json
import logging

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma2PreTrainedModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
)

from scoreonce.schemas.errors import InputError
from scoreonce.stages.models.loading import load_model
from scoreonce.stages.weights.loading_report import require_whole, unlogged


def change(folder, *, config=None, weights=None, name="model"):
    """Change a saved model: keys of its config, and its tensors by a function."""
    if config:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    if weights:
        tensors = load_file(folder / f"{name}.safetensors")
        weights(tensors)
        save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})


def refused(folder, **options):
    with pytest.raises(InputError, match="The weights are not those that") as caught:
        load_model(str(folder), dtype="float32", device="cpu", **options)
    return caught.value


# The tiny Llama of the tests: nine tensors a layer, two layers, hidden size 32, 97 tokens.
@pytest.mark.parametrize(
    ("config", "weights", "found"),
    [
        (None, lambda w: w.pop("model.norm.weight"), "not in the files: model.norm.weight"),
        (
            {"num_hidden_layers": 3},
            None,
            "not in the files: model.layers.2.input_layernorm.weight, model.layers.2.mlp.down_proj.weight, "
            "model.layers.2.mlp.gate_proj.weight, and 6 more",
        ),
        (
            {"num_hidden_layers": 1},
            None,
            "not in the model: model.layers.1.input_layernorm.weight, model.layers.1.mlp.down_proj.weight, "
            "model.layers.1.mlp.gate_proj.weight, and 6 more",
        ),
        (None, lambda w: w.pop("lm_head.weight"), "not in the files: lm_head.weight"),
        (None, lambda w: w.update(v_head=torch.ones(4)), "not in the model: v_head"),
        (
            None,
            lambda w: w.update({"model.norm.weight": torch.ones(16)}),
            "of another shape: model.norm.weight (16 in the file, 32 in the model)",
        ),
        (
            {"vocab_size": 90},
            None,
            "of another shape: lm_head.weight (97 x 32 in the file, 90 x 32 in the model), "
            "model.embed_tokens.weight (97 x 32 in the file, 90 x 32 in the model)",
        ),
    ],
)
def test_a_model_that_is_not_what_its_files_hold_is_refused(world, config, weights, found):
    folder = world.model()
    change(folder, config=config, weights=weights)
    error = refused(folder)
    assert error.found == found
    assert error.where == str(folder)
    assert "config.json" in error.fix


@pytest.fixture
def shown(monkeypatch):
    """What transformers' loader logs."""
    records, handler = [], logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    monkeypatch.setattr(logging.getLogger("transformers.modeling_utils"), "handlers", [handler])
    return records


def test_the_error_alone_is_shown(world, shown):
    """The table of transformers that names the same weights is not, but where it tells more than the exception does."""
    folder = world.model()
    change(folder, config={"num_hidden_layers": 3})
    LlamaForCausalLM.from_pretrained(folder)
    assert len(shown) == 1
    refused(folder)
    assert len(shown) == 1
    with unlogged():
        logging.getLogger("transformers.modeling_utils").warning("Llama LOAD REPORT: a.weight | CONVERSION")
    assert len(shown) == 2


def test_tied_weights_and_buffers_of_old_files_are_no_fault(world, tmp_path):
    """A tied head is not in the file; rotary frequencies and GPT-2's causal mask once were."""
    tied = world.model("tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change(tied, weights=lambda w: w.update({buffer: torch.full((4,), 7.0)}))
    loaded = load_model(str(tied), dtype="float32", device="cpu")
    plain = LlamaForCausalLM.from_pretrained(tied)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(loaded.parameters(), plain.parameters(), strict=True))
    old = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=4, n_positions=64)).save_pretrained(old)
    change(old, weights=lambda w: w.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64).tril()}))
    load_model(str(old), dtype="float32", device="cpu")


def test_attention_that_caps_its_logits_is_not_left_to_sdpa(tmp_path, monkeypatch):
    """SDPA would leave the cap out without a word; transformers 5.17 took it for Gemma 2."""
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)
    shape = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "head_dim": 8}
    Gemma2ForCausalLM(Gemma2Config(**shape)).save_pretrained(tmp_path)
    assert Gemma2ForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    assert load_model(str(tmp_path), dtype="float32", device="cpu").config._attn_implementation == "eager"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("weights", "found"),
    [
        (lambda w: w.pop(min(w)), "not in the files: base_model.model.model.layers.0.mlp.down_proj.lora_A"),
        (lambda w: w.update({max(w).replace("layers.1", "layers.5"): torch.ones(2, 2)}), "layers.5"),
    ],
)
def test_an_adapter_that_is_not_what_its_files_hold_is_refused(world, tmp_path, weights, found):
    model, folder = LlamaForCausalLM.from_pretrained(world.model()), tmp_path / "adapter"
    settings = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    peft.get_peft_model(model, settings).save_pretrained(folder)
    load_model(str(world.model()), dtype="float32", device="cpu", adapter=str(folder))
    change(folder, weights=weights, name="adapter_model")
    error = refused(world.model(), adapter=str(folder))
    assert found in error.found
    assert error.where == str(folder)
    assert "adapter_config.json" in error.what


def test_all_three_kinds_are_listed_and_nothing_is_no_error():
    require_whole("x", missing=[], unexpected=[])
    with pytest.raises(InputError) as caught:
        require_whole("x", missing=["b", "a"], unexpected={"c"}, mismatched=[("d", (2, 3), ())])
    assert [line.strip() for line in caught.value.found.splitlines()] == [
        "not in the files: a, b",
        "not in the model: c",
        "of another shape: d (2 x 3 in the file, one number in the model)",
    ]
