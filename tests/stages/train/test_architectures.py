"""Models that are unlike Llama, through score, train and evaluate."""

import json
import math

import numpy as np
import pytest
import torch
import transformers as tr
from safetensors.torch import load_file

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward import layout_probe
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.models import loading
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import stage as train

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MODELS = {
    "llama4": lambda: tr.Llama4TextConfig(
        **SHAPE, head_dim=8, intermediate_size_mlp=48, num_local_experts=4, num_experts_per_tok=1
    ),
    "phimoe": lambda: tr.PhimoeConfig(**SHAPE, num_local_experts=4, router_jitter_noise=0.1, input_jitter_noise=0.1),
}


def model_folder(world, name):
    torch.manual_seed(0)
    folder = world.folder / name
    tr.AutoModelForCausalLM.from_config(MODELS[name]()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_a_policy_starts_at_its_reference(world, name):
    """With recomputed activations, for which layers are in training mode; that of PhiMoE's routers would add noise."""
    world.prepare(world.random_pairs(12), world.random_pairs(4, seed=1))
    reference = {"model": str(model_folder(world, name))}
    settings = {"method": "dpo", "learning_rate": 1e-4, "batch_pairs": 6, "max_steps": 2, "verify_pairs": 12}
    run = world.run(reference=reference, train={**settings, "gradient_checkpointing": True})
    score.score(run)
    train.train(run)
    lines = (RunPaths.of(run).training / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert math.isfinite(evaluate.evaluate(run).summary["margin"])


def test_recomputing_gives_the_same_gradients(world):
    """Of PhiMoE, in which training mode routes by chance: losses and gradients are those of evaluation mode."""
    model = loading.load_model(str(model_folder(world, "phimoe")), dtype="float32", device="cpu")
    pairs = world.random_pairs(4)
    rows = [PromptRow(np.array(prompt), (np.array(chosen), np.array(rejected))) for prompt, chosen, rejected in pairs]

    def step():
        model.zero_grad()
        sums = TokenScorer(model, "padded")(rows).sums()
        sums.sum().backward()
        return sums.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    sums, gradients = step()
    loading.recompute_activations(model)
    recomputed, others = step()
    torch.testing.assert_close(recomputed, sums)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-5)


def test_noise_in_training_mode_is_noticed(world):
    """A decoder layer that adds noise of its own where it is in training mode cannot be trained with recomputing."""
    model = loading.load_model(str(world.model()), dtype="float32", device="cpu")
    layout_probe.require_same_in_training(model, "padded")  # nothing is in training mode
    loading.recompute_activations(model)
    layout_probe.require_same_in_training(model, "padded")
    layer = model.model.layers[0]
    layer.register_forward_hook(lambda module, _, output: output + 0.1 if module.training else output)
    with pytest.raises(InputError, match="other log-probs with gradient checkpointing") as raised:
        layout_probe.require_same_in_training(model, "padded")
    assert raised.value.where == "train.gradient_checkpointing"
    assert layer.training


def test_the_auxiliary_loss_of_routers_is_an_option(world, capsys):
    """Off it is said where the config asks for it; on it is logged and trains, with recomputed activations too."""
    torch.manual_seed(0)
    config = tr.MixtralConfig(**SHAPE, num_local_experts=4, router_aux_loss_coef=10.0, output_router_logits=True)
    folder = world.folder / "mixtral"
    tr.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    world.prepare(world.random_pairs(16))
    score.score(world.run(reference={"model": str(folder)}))

    def trained(label, **settings):
        settings = {
            "method": "dpo",
            "learning_rate": 1e-3,
            "batch_pairs": 8,
            "max_steps": 4,
            **settings,
            "label": label,
        }
        run = world.run(reference={"model": str(folder)}, train=settings, compute={"tokens_per_microbatch": 128})
        train.train(run)
        lines = (RunPaths.of(run).training / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines], load_file(RunPaths.of(run).policy / "model.safetensors")

    off, _ = trained("off")
    assert (
        "output_router_logits of the model's config has no effect; see train.router_aux_loss" in capsys.readouterr().out
    )
    on, weights = trained("on", router_aux_loss=True)
    assert "has no effect" not in capsys.readouterr().out
    assert "aux_loss" not in off[0]
    assert on[0]["loss"] == pytest.approx(off[0]["loss"], abs=1e-6)
    assert on[-1]["aux_loss"] < on[0]["aux_loss"]
    saving, others = trained("saving", router_aux_loss=True, gradient_checkpointing=True)
    assert saving[0]["aux_loss"] == pytest.approx(on[0]["aux_loss"], rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="LlamaForCausalLM has no auxiliary loss for routers"):
        train.train(world.run(train={"method": "simpo", "router_aux_loss": True}))
