"""QLoRA: reference and policy are the same weights in 4 bits; bitsandbytes computes with them on a CPU too.

The oracle is transformers with PEFT: a model loaded in 4 bits as anybody would load it.
"""

import json
import math

import numpy as np
import polars as pl
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.models import loading
from scoreonce.stages.score import stage as score
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.store.identity import StoreIdentity
from scoreonce.stages.train import merge
from scoreonce.stages.train import stage as train

bitsandbytes = pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of PEFT

FAST = {"learning_rate": 3e-3, "batch_pairs": 8, "max_steps": 3, "method": "dpo", "lora_rank": 4, "label": "qlora"}
FOUR = {"quantization": "nf4"}


@pytest.fixture
def scored(world):
    world.prepare(world.random_pairs(40), world.random_pairs(8, seed=1))
    score.score(world.run(reference=FOUR))
    return world


def in_four_bits(folder, dtype=torch.float32):
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, device_map="cpu", dtype=dtype)
    for module in model.modules():
        # With AVX-512 in bfloat16, bitsandbytes would compute in bfloat16, and fail where a row is under a block of 64.
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model


def total_logp(model, prompt, completion):
    with torch.no_grad():
        logps = model.eval()(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    return logps.gather(1, torch.tensor(completion)[:, None]).sum().item()


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(3, 40)[None]).logits


def test_scores_are_those_of_the_quantised_weights(scored):
    """A store of their own, with the values of transformers in 4 bits; those of all bits are others by far."""
    pairs = pl.read_parquet(RunPaths.of(scored.run()).reference("train"))
    four, whole = in_four_bits(scored.model()), AutoModelForCausalLM.from_pretrained(scored.model())
    apart = []
    for row, (prompt, chosen, _) in zip(pairs.iter_rows(named=True), scored.random_pairs(40)[:4], strict=False):
        assert row["ref_chosen_logps"] == pytest.approx(total_logp(four, prompt, chosen), abs=1e-4)
        apart.append(abs(row["ref_chosen_logps"] - total_logp(whole, prompt, chosen)))
    assert np.max(apart) > 0.1
    keys = [ScoringJob.of(scored.run(reference=given)).store.identity.key for given in (FOUR, {})]
    assert keys[0] != keys[1]
    again = score.score(scored.run())
    assert again.reused == 0  # nothing of it serves the model with all bits


def test_the_key_of_a_store_of_all_bits_is_as_before():
    plain, four = StoreIdentity("w" * 64, "float32"), StoreIdentity("w" * 64, "float32", quantization="nf4")
    assert "quantization" not in plain.document()
    assert four.document()["quantization"] == "nf4"
    assert plain.key != four.key


@pytest.mark.parametrize("more", [{}, {"lora_use_dora": True}, {"gradient_checkpointing": True}])
def test_qlora_trains_from_the_scored_reference(scored, more, capsys):
    run = scored.run(reference=FOUR, train={**FAST, **more})
    train.train(run)
    assert "policy equals the cached reference" in capsys.readouterr().out
    paths = RunPaths.of(run)
    lines = [json.loads(line) for line in (paths.training / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert all(line["grad_norm"] > 0 for line in lines)
    policy = PeftModel.from_pretrained(in_four_bits(scored.model()), paths.policy)
    evaluate.evaluate(run)
    pairs = pl.read_parquet(paths.evaluation / "pairs.parquet")
    assert pairs["margin"].abs().max() > 1e-3
    for row, (prompt, chosen, _) in zip(pairs.iter_rows(named=True), scored.random_pairs(8, seed=1)[:3], strict=False):
        assert row["policy_chosen_logps"] == pytest.approx(total_logp(policy, prompt, chosen), abs=1e-4)
    merged = AutoModelForCausalLM.from_pretrained(merge.merge(run).model)
    torch.testing.assert_close(logits(merged), logits(policy), rtol=0, atol=1e-4)
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}


def test_the_gradient_reaches_every_layer_as_with_all_bits(scored):
    """Against the same values in float32: of every matrix, those of the first layer and behind the 4 bits too."""
    four = loading.load_model(str(scored.model()), dtype="float32", device="cpu", quantization="nf4")
    from scoreonce.stages.models import adapters, four_bits
    from scoreonce.stages.models.lora import Lora

    whole = four_bits.with_all_bits(
        loading.load_model(str(scored.model()), dtype="float32", device="cpu", quantization="nf4")
    )
    gradients = []
    for model in (four, whole):
        torch.manual_seed(0)
        wrapped = adapters.with_new_lora(model, Lora(2, 4.0))
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        logits_of(wrapped).square().sum().backward()
        gradients.append({n: p.grad for n, p in wrapped.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))


def logits_of(model):
    return model(torch.arange(3, 40)[None]).logits


def test_all_weights_cannot_be_trained(scored):
    with pytest.raises(InputError, match="4 bits cannot be trained") as raised:
        train.train(scored.run(reference=FOUR, train={**FAST, "lora_rank": None}))
    assert "lora_rank = 16" in raised.value.fix


def test_a_policy_of_all_bits_has_another_reference(scored):
    with pytest.raises(InputError, match="another reference") as raised:
        train.train(scored.run(train=FAST))
    assert "quantization" in raised.value.found


def test_a_weight_that_is_not_finite_is_seen(world):
    """In 4 bits it would be some number."""
    file = world.model() / "model.safetensors"
    stored = load_file(file)
    stored["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(stored, file, {"format": "pt"})
    with pytest.raises(InputError, match="NaN or infinite") as raised:
        loading.load_model(str(world.model()), dtype="float32", device="cpu", quantization="nf4")
    assert "up_proj" in raised.value.found


def test_without_the_package(world, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(InputError, match="need the bitsandbytes package") as raised:
        loading.load_model(str(world.model()), dtype="float32", device="cpu", quantization="nf4")
    assert "scoreonce[quantization]" in raised.value.fix
