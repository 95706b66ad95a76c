"""Hybrids through the stages: prompts computed once in `score` and `evaluate`, padded rows in `train`."""

import json
import math

import polars as pl
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Lfm2Config

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import ReferenceManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Reference
from scoreonce.stages.evaluate.stage import evaluate
from scoreonce.stages.memory.peaks import counted_scoring
from scoreonce.stages.score import stage as score
from scoreonce.stages.store.store import ReferenceStore
from scoreonce.stages.train.stage import train

TRAIN = {"learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 2, "method": "dpo", "verify_pairs": 24}


@pytest.fixture
def hybrid(world):
    """A world whose model is an LFM2 of convolutions and attention."""
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        layer_types=["conv", "full_attention"] * 2,
        block_multiple_of=32,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(world.folder / "model")
    return world


def summed(model, prompt, completion):
    with torch.no_grad():
        logps = model(torch.tensor([prompt + completion])).logits[0].double().log_softmax(-1)[len(prompt) - 1 : -1]
    return logps.gather(1, torch.tensor(completion)[:, None]).sum().item()


def scored(run):
    """Log-probs of the chosen and rejected sides, in the order of the pairs."""
    table = pl.read_parquet(RunPaths.of(run).reference("train"))
    return [table[f"ref_{side}_logps"].to_list() for side in ("chosen", "rejected")]


def layouts(store):
    return [store.sidecar(shard)["provenance"]["layout"] for shard in store.shards()]


def first_step(run):
    return json.loads((RunPaths.of(run).training / "metrics.jsonl").read_text().splitlines()[0])


def test_score_train_and_evaluate(hybrid, capsys):
    """Scored in two goes, and trained: the policy starts at the cached reference, though its rows are padded."""
    pairs, held_out = hybrid.random_pairs(24), hybrid.random_pairs(4, seed=1)
    hybrid.prepare(pairs[:12], held_out)
    run = hybrid.run(train=TRAIN)
    score.score(run)
    assert "completions go on from the model's cache of their prompt: shared: its kinds" in capsys.readouterr().err
    hybrid.prepare(pairs, held_out)
    score.score(run)
    store = ReferenceStore.of(run)
    assert set(layouts(store)) == {"continued"}
    assert len(layouts(store)) > 2
    assert manifests.read(ReferenceManifest, RunPaths.of(run).reference_manifest).layout == "continued"
    plain = AutoModelForCausalLM.from_pretrained(hybrid.model())
    chosen, rejected = scored(run)
    assert chosen == pytest.approx([summed(plain, prompt, each) for prompt, each, _ in pairs], abs=1e-4)
    assert rejected == pytest.approx([summed(plain, prompt, each) for prompt, _, each in pairs], abs=1e-4)
    capsys.readouterr()
    train(run)
    said = capsys.readouterr().out
    assert "padded rows" in said
    assert "note: the reference was scored in continued rows, and padded rows are used here (completions go on" in said
    assert "policy equals the cached reference" in said
    assert first_step(run)["loss"] == pytest.approx(math.log(2), abs=1e-5)
    evaluate(run)
    policy = Reference(model=str(RunPaths.of(run).policy), dtype="float32")
    assert layouts(ReferenceStore.of(run, policy)) == ["continued"]


@pytest.mark.long
def test_a_store_that_was_scored_padded_stays_so(hybrid):
    pairs = hybrid.random_pairs(24)
    hybrid.prepare(pairs[:12])
    score.score(hybrid.run(compute={"attention": "padded"}))
    hybrid.prepare(pairs)
    run = hybrid.run()
    score.score(run)
    assert set(layouts(ReferenceStore.of(run))) == {"padded"}


@pytest.mark.long
def test_a_cache_that_is_another_model_is_noticed(hybrid):
    """The check before the first step, whatever the layout: here the policy has other weights than what was scored."""
    hybrid.prepare(hybrid.random_pairs(12))
    run = hybrid.run(train=TRAIN)
    score.score(run)
    table = RunPaths.of(run).reference("train")
    manifest = manifests.read(ReferenceManifest, RunPaths.of(run).reference_manifest)
    changed = pl.read_parquet(table).with_columns(pl.col("ref_chosen_logps") + 0.01)
    changed.write_parquet(table)
    manifests.write(
        RunPaths.of(run).reference_manifest,
        manifest.model_copy(update={"files": {**manifest.files, table.name: sha256(table)}}),
    )
    with pytest.raises(InputError, match="its log-probs are not the cached ones") as caught:
        train(run)
    assert "layout continued when scored, padded here" in caught.value.found
    assert 'into another score.store with compute.attention = "padded".' in caught.value.fix


@pytest.mark.parametrize(("form", "rounding"), [("hidden", 1e-5), pytest.param("topk", 1e-3, marks=pytest.mark.long)])
def test_kept_distributions(hybrid, form, rounding):
    """A policy that is the reference has no KL from what is kept, so that the loss is log 2; top-k is in float16."""
    hybrid.prepare(hybrid.random_pairs(12))
    run = hybrid.run(score={"full_vocab": form}, train={**TRAIN, "method": "tdpo2", "full_vocab": form})
    score.score(run)
    assert set(layouts(ReferenceStore.of(run))) == {"continued"}
    train(run)
    assert first_step(run)["loss"] == pytest.approx(math.log(2), abs=rounding)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of PEFT
def test_an_adapter_on_the_reference(hybrid):
    torch.manual_seed(7)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["in_proj", "w1"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(hybrid.model()), config)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(hybrid.folder / "adapter")
    pairs = hybrid.random_pairs(8)
    hybrid.prepare(pairs)
    run = hybrid.run(reference={"adapter": str(hybrid.folder / "adapter")})
    score.score(run)
    assert set(layouts(ReferenceStore.of(run))) == {"continued"}
    chosen, _ = scored(run)
    assert chosen == pytest.approx([summed(model.eval(), prompt, each) for prompt, each, _ in pairs], abs=1e-4)


def test_a_dry_run_says_the_layout_and_counts_what_is_kept(hybrid, capsys):
    """The estimate's micro-batch has the start of its prompts once, and the caches from which completions go on."""
    prompt, completion = list(range(40)), list(range(20))
    hybrid.prepare([(prompt, completion, [*completion[:-1], 5])])
    run = hybrid.run()
    found = score.estimate(run)
    assert "completions go on from the model's cache of their prompt" in capsys.readouterr().err
    assert found.tokens == 40 + 2 * 19
    counted = counted_scoring(run.reference, run.compute, RunPaths.of(run), shard_completions=16)
    assert counted.layout == "continued"
    assert counted.sizes.microbatch.positions == 39 + 2 * 20
    assert counted.sizes.microbatch.predicted == 40
    # Keys and values of two layers for two completions: 40 + 19 positions of 2 heads of 8 elements of 4 bytes.
    assert counted.sizes.microbatch.peak > 2 * 2 * 2 * 59 * 16 * 4
