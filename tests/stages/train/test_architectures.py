"""Models that are unlike Llama, through score, train and evaluate."""

import json
import math

import numpy as np
import pytest
import torch
import transformers as tr

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
