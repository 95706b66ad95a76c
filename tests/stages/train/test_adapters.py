"""Training from a reference that is an adapter: all weights, a new LoRA on top, the adapter itself; what is written.

The oracle is PEFT: the reference's log-probs are those of base model and adapter, and what training wrote is loaded as
anybody would load it.
"""

import json
import math

import polars as pl
import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id, pair_id
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.models import adapters
from scoreonce.stages.models.adapters import base_name
from scoreonce.stages.models.lora import Lora
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import merge
from scoreonce.stages.train import stage as train
from scoreonce.stages.weights import policy_manifest

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of PEFT

FAST = {"learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 3}


def write_adapter(world, name="adapter", seed=7, kind=LoraConfig, **settings):
    """An adapter of the world's model whose effect is large."""
    torch.manual_seed(seed)
    defaults = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "up_proj"]} if kind is LoraConfig else {}
    config = kind(**defaults | {"task_type": "CAUSAL_LM"} | settings)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(world.model()), config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.3)
    model.save_pretrained(world.folder / name)
    return world.folder / name


@pytest.fixture
def scored(world):
    """Forty pairs, scored by base model and adapter."""
    adapter = write_adapter(world)
    world.prepare(world.random_pairs(40), world.random_pairs(8, seed=1))
    score.score(world.run(reference={"adapter": str(adapter)}))
    return world


def training(world, label, **settings):
    run = world.run(
        reference={"adapter": str(world.folder / "adapter")},
        train={**FAST, "method": "dpo", "label": label, **settings},
    )
    train.train(run)
    lines = (RunPaths.of(run).training / "metrics.jsonl").read_text().splitlines()
    return run, RunPaths.of(run), [json.loads(line) for line in lines]


def total_logp(model, prompt, completion):
    with torch.no_grad():
        logps = model.eval()(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    return logps.gather(1, torch.tensor(completion)[:, None]).sum().item()


STARTS = {
    "all weights": {},
    "a new LoRA on top": {"lora_rank": 2, "lora_targets": ["k_proj", "up_proj"]},
    "a new LoRA on all layers": {"lora_rank": 2},
    "the adapter trained on": {"lora_continue": True},
}


@pytest.mark.parametrize("start", STARTS)
def test_the_reference_is_an_adapter(scored, start, capsys):
    """Step 0 agrees with the adapter's cached log-probs; what is written is what was trained, to PEFT too."""
    run, paths, lines = training(scored, "policy", **STARTS[start])
    assert "policy equals the cached reference" in capsys.readouterr().out
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    evaluate.evaluate(run)
    pairs = pl.read_parquet(paths.evaluation / "pairs.parquet")
    assert pairs["margin"].abs().max() > 1e-3  # it did learn
    load = AutoPeftModelForCausalLM if STARTS[start] else AutoModelForCausalLM
    policy = load.from_pretrained(paths.policy)
    for prompt, chosen, rejected in scored.random_pairs(8, seed=1)[:3]:
        name = pair_id(completion_id(prompt, chosen), completion_id(prompt, rejected))
        ours = pairs.row(by_predicate=pl.col("pair_id") == name, named=True)["policy_chosen_logps"]
        assert ours == pytest.approx(total_logp(policy, prompt, chosen), abs=1e-4)


def test_only_the_new_matrices_are_trained(scored):
    """A checkpoint has the trained weights alone: those of the new LoRA, not the reference's adapter."""
    from safetensors import safe_open

    _, paths, _ = training(scored, "policy", **STARTS["a new LoRA on top"])
    with safe_open(paths.training / "checkpoints/step-000003/weights.safetensors", "pt") as checkpoint:
        names = list(checkpoint.keys())
    assert names
    assert all(".default." in name for name in names)


def test_an_adapter_names_its_base_wherever_it_is_loaded_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    assert base_name("org") == str(tmp_path / "org")
    assert base_name("org/model") == "org/model"  # no such folder: a name on the Hub


def test_an_adapter_on_a_model_of_the_hub(world, monkeypatch):
    """Its revision is written too, and nothing asks the Hub for what the model's folder has."""
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *_, **__: pytest.fail("asked"))
    model = adapters.with_new_lora(AutoModelForCausalLM.from_pretrained(world.model()), Lora(2, 4.0, ("q_proj",)))
    adapters.write(model, world.folder / "written", "org/model", "abc123")
    config = json.loads((world.folder / "written" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/model", "abc123")
    assert config["inference_mode"]


def test_a_written_adapter_loads_from_any_folder(scored, tmp_path, monkeypatch):
    """The run file names the base by a relative path; the adapter that it leads to is loaded from elsewhere."""
    monkeypatch.chdir(scored.folder)
    score.score(scored.run(reference={"model": "model"}))
    run = scored.run(reference={"model": "model"}, train={**FAST, "lora_rank": 2, "label": "moved"})
    train.train(run)
    moved = tmp_path / "moved"
    RunPaths.of(run).policy.rename(moved)
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    config = json.loads((moved / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(scored.folder / "model")
    prompt, chosen, _ = scored.random_pairs(1)[0]
    base = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(scored.folder / "model"), moved)
    alone = AutoPeftModelForCausalLM.from_pretrained(moved)
    assert total_logp(alone, prompt, chosen) == pytest.approx(total_logp(base, prompt, chosen), abs=1e-5)
    assert "library_name: peft" in (moved / "README.md").read_text()


@pytest.mark.parametrize(
    ("settings", "match", "fix"),
    [
        ({"lora_continue": True, "lora_rank": 2}, "either trained on or new", "Leave out lora_rank"),
        ({"lora_continue": True, "model": "elsewhere"}, "no adapter to train on", "leave out train.model"),
    ],
)
def test_settings_that_contradict(scored, settings, match, fix):
    with pytest.raises(InputError, match=match) as raised:
        training(scored, "policy", **settings)
    assert fix in raised.value.fix


def test_no_lora_on_top_of_more_than_lora(world):
    """Its bias and norms could not be written as one LoRA; trained on it can be."""
    write_adapter(world, bias="all", modules_to_save=["norm"])
    world.prepare(world.random_pairs(16))
    score.score(world.run(reference={"adapter": str(world.folder / "adapter")}))
    with pytest.raises(InputError, match="on top of a plain LoRA only") as raised:
        training(world, "policy", lora_rank=2)
    assert "modules_to_save" in raised.value.found
    assert "bias = all" in raised.value.found
    _, _, lines = training(world, "on", lora_continue=True, max_steps=1)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_virtual_tokens_are_refused(world):
    """The scorer runs the base model, without them: they would be left out silently."""
    adapter = write_adapter(world, kind=PromptTuningConfig, num_virtual_tokens=3)
    world.prepare(world.random_pairs(8))
    with pytest.raises(InputError, match="virtual tokens"):
        score.score(world.run(reference={"adapter": str(adapter)}))


def test_merge_writes_the_policy_as_a_whole_model(scored, capsys):
    """Of a LoRA on top of the reference's: the merged model gives what PEFT gives with base model and adapter."""
    run, paths, _ = training(scored, "policy", **STARTS["a new LoRA on top"])
    made = merge.merge(run)
    assert made.model == paths.training / "merged"
    whole, adapted = (
        AutoModelForCausalLM.from_pretrained(made.model),
        AutoPeftModelForCausalLM.from_pretrained(paths.policy),
    )
    for prompt, chosen, _ in scored.random_pairs(3):
        assert total_logp(whole, prompt, chosen) == pytest.approx(total_logp(adapted, prompt, chosen), abs=1e-4)
    identity = json.loads(paths.lineage.read_text())["identity"]
    card = (made.model / "README.md").read_text()
    assert identity in card
    assert "library_name: transformers" in card
    assert evaluate.evaluate(run, model=str(made.model)).paths.label == "policy"
    assert json.loads(paths.evaluation_summary.read_text())["training_identity"] == identity
    stamp = (made.model / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    merge.merge(run)
    assert "up to date" in capsys.readouterr().out
    assert (made.model / "model.safetensors").stat().st_mtime_ns == stamp


def _flip(path):
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)


def _of_another_run(merged):
    manifest = json.loads((merged / "scoreonce.json").read_text())
    del manifest["checksum"]
    (merged / "scoreonce.json").write_text(json.dumps(manifest | {"identity": "0" * 64}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda merged: _flip(merged / "model.safetensors"), "not what `scoreonce train` wrote"),
        (lambda merged: (merged / "config.json").unlink(), "not what `scoreonce train` wrote"),
        (lambda merged: (merged / "scoreonce.json").unlink(), "was not merged from this adapter"),
        (_of_another_run, "was not merged from this adapter"),
    ],
)
def test_a_merged_model_that_is_not_this_one_is_written_again(scored, damage, said, capsys):
    run, _, _ = training(scored, "policy", max_steps=1, lora_continue=True)
    merged = merge.merge(run).model
    whole = (merged / "model.safetensors").read_bytes()
    damage(merged)
    capsys.readouterr()
    merge.merge(run)
    assert said in "".join(capsys.readouterr())
    assert (merged / "model.safetensors").read_bytes() == whole
    policy_manifest.require_sound(merged)


def test_merge_waits_for_a_training_of_the_same_label(scored):
    run, paths, _ = training(scored, "policy", max_steps=1, lora_continue=True)
    with (
        locked(paths, paths.training, "the training run policy"),
        pytest.raises(InputError, match="The training run policy is in use by another process"),
    ):
        merge.merge(run, lock_timeout=0)
    assert not paths.merged.exists()


def test_what_cannot_be_merged(scored):
    run = scored.run(train={"label": "policy", "method": "dpo"})
    with pytest.raises(InputError, match="There is no training run"):
        merge.merge(run)
    whole, paths, _ = training(scored, "policy", max_steps=1)
    with pytest.raises(InputError, match="the policy is a whole model"):
        merge.merge(whole)
    lora, _, _ = training(scored, "lora", max_steps=1, lora_continue=True)
    other = scored.model("other", seed=5)
    with pytest.raises(InputError, match="trained on another base model") as raised:
        merge.merge(lora.replace({"train.model": str(other)}))
    assert str(other) in raised.value.found
    paths.policy.rename(paths.training / "away")
    with pytest.raises(InputError, match="no trained policy to merge"):
        merge.merge(whole)


def test_two_loras_are_written_as_one(world):
    """Scales 6 / 4 and 5 / 2; q_proj has the first alone, k_proj the second, up_proj both: the logits are the same."""
    adapter = write_adapter(world)
    base = AutoModelForCausalLM.from_pretrained(world.model())
    model = adapters.with_lora_on_top(base, adapter, Lora(2, 5.0, ("k_proj", "up_proj")))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.default" in name:
                parameter.normal_(std=0.3)
    adapters.write(model, world.folder / "both", adapters.base_name(str(world.model())), None)
    loaded = AutoPeftModelForCausalLM.from_pretrained(world.folder / "both").eval()
    tokens = torch.arange(1, 30)[None]
    with torch.no_grad():
        together, first = (
            model.eval()(tokens).logits,
            PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world.model()), adapter)(tokens).logits,
        )
        torch.testing.assert_close(loaded(tokens).logits, together, rtol=1e-4, atol=1e-4)
    assert (together - first).abs().max() > 0.1
