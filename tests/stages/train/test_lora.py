"""Settings of LoRA: each starts at the reference, is written as PEFT loads it, and is merged; or is refused by name.

The oracle is PEFT: what training wrote is loaded as anybody would load it.
"""

import json
import math

import pytest
import torch
from killed_training import dying_before
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from scoreonce.pipeline import methods
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.models import policy
from scoreonce.stages.score import stage as score
from scoreonce.stages.sharded.scorer import require_can_be_sharded
from scoreonce.stages.train import merge
from scoreonce.stages.train import stage as train

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of PEFT

FAST = {"learning_rate": 3e-3, "batch_pairs": 8, "max_steps": 3, "method": "dpo", "lora_rank": 4}


@pytest.fixture
def scored(world):
    world.prepare(world.random_pairs(40), world.random_pairs(8, seed=1))
    score.score(world.run())
    return world


def training(world, label="policy", **settings):
    run = world.run(train={**FAST, "label": label, **settings})
    train.train(run)
    paths = RunPaths.of(run)
    return run, paths, [json.loads(line) for line in (paths.training / "metrics.jsonl").read_text().splitlines()]


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(3, 40)[None]).logits


SETTINGS = {
    "DoRA": {"lora_use_dora": True},
    "rsLoRA": {"lora_use_rslora": True},
    "gaussian": {"lora_init": "gaussian"},
    "orthogonal": {"lora_init": "orthogonal"},
    "modules": {"lora_modules_to_save": ["embed_tokens", "norm"], "lora_targets": ["q_proj"]},
    "the head": {"lora_modules_to_save": ["lm_head"]},
    "DoRA, recomputed": {"lora_use_dora": True, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_setting_starts_at_the_reference_and_is_written_whole(scored, kind, capsys):
    run, paths, lines = training(scored, **SETTINGS[kind])
    assert "policy equals the cached reference" in capsys.readouterr().out
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    trained = policy.load(run, torch.device("cpu"))
    start = logits(trained)
    torch.testing.assert_close(start, logits(AutoModelForCausalLM.from_pretrained(scored.model())), rtol=0, atol=1e-4)
    loaded = logits(AutoPeftModelForCausalLM.from_pretrained(paths.policy))
    assert (loaded - start).abs().max() > 1e-2  # it did learn
    merged = merge.merge(run).model
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(merged)), loaded, rtol=0, atol=1e-4)
    names = load_file(paths.policy / "adapter_model.safetensors").keys()
    assert any("magnitude" in name for name in names) == bool(SETTINGS[kind].get("lora_use_dora"))
    for module in SETTINGS[kind].get("lora_modules_to_save", []):
        assert any(name.endswith(f"{module}.weight") for name in names)


def test_rslora_scales_by_the_root_of_the_rank(scored):
    """Alpha 8 and rank 4: 8 / 2 in place of 8 / 4."""
    for asked, scale in ((True, 4.0), (False, 2.0)):
        run = scored.run(train={**FAST, "lora_alpha": 8.0, "lora_use_rslora": asked})
        model = policy.load(run, torch.device("cpu"))
        assert {module.scaling["default"] for module in model.modules() if hasattr(module, "lora_A")} == {scale}


def test_dora_starts_at_the_reference_in_half_precision(scored):
    """PEFT rounds its magnitudes to bfloat16 and computes with float32 ones: off by up to 0.4 % in each layer."""
    run = scored.run(reference={"dtype": "bfloat16"}, train={**FAST, "lora_use_dora": True})
    base = AutoModelForCausalLM.from_pretrained(scored.model(), dtype=torch.bfloat16)
    assert torch.equal(logits(policy.load(run, torch.device("cpu"))), logits(base))


def test_settings_of_lora_are_part_of_the_run(scored):
    training(scored, lora_use_dora=True)
    with pytest.raises(InputError, match="Another training run") as raised:
        training(scored)
    assert "lora_use_dora" in raised.value.found


def test_dropout_changes_training_alone(scored, capsys):
    """The check before the first step has none; the losses of a step have: at the reference they are not log 2."""
    _, paths, lines = training(scored, lora_dropout=0.5)
    assert "policy equals the cached reference" in capsys.readouterr().out
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # the matrices' product is 0, whatever is dropped
    _, _, without = training(scored, "without")
    assert abs(lines[2]["loss"] - without[2]["loss"]) > 1e-4
    assert json.loads((paths.policy / "adapter_config.json").read_text())["lora_dropout"] == 0.5


class KilledError(Exception):
    pass


@pytest.mark.parametrize("method", ["dpo", "beta_dpo", "kto"])
def test_dropout_is_the_same_after_a_restart(scored, method):
    """In several micro-batches a step, for a batch-coupled method forwarded twice, recomputed in the backward pass."""
    score.score(scored.run(score={"mismatched": True}))
    settings = {"lora_dropout": 0.3, "method": method, "checkpoint_every": 1, "gradient_checkpointing": True}

    def run(label):
        made = scored.run(train={**FAST, "label": label, **settings}, compute={"tokens_per_microbatch": 64})
        train.train(made)
        return load_file(RunPaths.of(made).policy / "adapter_model.safetensors")

    whole = run("whole")
    with dying_before(3):
        run("killed")
    torch.manual_seed(5)  # whatever else was drawn
    resumed = run("killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


REFUSED = [
    ({"lora_init": "pissa"}, "cannot be used", "changes the weights of the model"),
    ({"lora_init": "pissa_niter_4"}, "cannot be used", "changes the weights of the model"),
    ({"lora_init": "eva"}, "cannot be used", "a pass over data"),
    ({"lora_init": "gausian"}, "No such first values", "gaussian"),
    ({"lora_rank": None, "lora_use_dora": True, "lora_dropout": 0.1}, "there are none", "lora_dropout, lora_use_dora"),
    ({"lora_modules_to_save": ["embed_token"]}, "No such module", "embed_tokens"),
    ({"lora_targets": ["all-experts"]}, "no experts", "LlamaForCausalLM"),
]


@pytest.mark.parametrize(("settings", "what", "found"), REFUSED)
def test_what_is_refused(scored, settings, what, found):
    with pytest.raises(InputError, match=what) as raised:
        training(scored, **settings)
    assert found in raised.value.found
    assert all((raised.value.where, raised.value.fix))
    assert not RunPaths.of(scored.run(train={"label": "policy"})).training.exists()


def test_a_tied_embedding_is_not_trained_whole(world):
    tied = world.model("tied", tie_word_embeddings=True)
    run = world.run(reference={"model": str(tied)}, train={**FAST, "lora_modules_to_save": ["embed_tokens"]})
    with pytest.raises(InputError, match="one weight") as raised:
        policy.load(run, torch.device("cpu"))
    assert "tie_word_embeddings" in raised.value.found


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"lora_use_dora": True}, "lora_use_dora = true"),
        ({"lora_modules_to_save": ["norm"]}, "lora_modules_to_save = ['norm']"),
        ({"lora_targets": ["all-linear", "all-experts"]}, "all-experts"),
        ({"lora_dropout": 0.1}, "lora_dropout"),
    ],
)
def test_more_than_plain_matrices_is_not_sharded(world, settings, found):
    run = world.run(train={**FAST, **settings}, compute={"shard": "full"})
    with pytest.raises(InputError, match="plain matrices") as raised:
        require_can_be_sharded(run, methods.resolve("dpo", {}))
    assert found in raised.value.found


def test_dora_is_not_put_on_top_of_an_adapter(scored):
    _, paths, _ = training(scored, "first")
    reference = {"adapter": str(paths.policy)}
    run = scored.run(reference=reference, train={**FAST, "label": "second", "lora_use_dora": True})
    with pytest.raises(InputError, match="only a plain LoRA") as raised:
        policy.load(run, torch.device("cpu"))
    assert "lora_use_dora = true" in raised.value.found
