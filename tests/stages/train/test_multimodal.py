"""Models of images and text through score, train, merge and evaluate: text alone, and the whole model written.

The oracle is plain transformers: its full model's log-probs of text, and its own class loading what was written.
"""

import json
import math

import polars as pl
import pytest
import torch
import transformers as tr
from launches import launch
from peft import PeftModel
from safetensors.torch import load_file

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id, pair_id
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.models import loading, multimodal
from scoreonce.stages.models.empty import without_weights
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import merge
from scoreonce.stages.train import stage as train

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of PEFT

FAST = {"method": "dpo", "learning_rate": 1e-3, "batch_pairs": 6, "max_steps": 3, "weight_decay": 0.1}
TEXT = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
QWEN_TOWER = {"hidden_size": 16, "depth": 1, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 32}
SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
MODELS = {
    "qwen2_5_vl": lambda: tr.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": SECTIONS}, vision_config={**QWEN_TOWER, "fullatt_block_indexes": [0]}
    ),
    "gemma3": lambda: tr.Gemma3Config(
        text_config={**TEXT, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        mm_tokens_per_image=4,
        image_token_index=90,
    ),
    "llava": lambda: tr.LlavaConfig(
        text_config=tr.LlamaConfig(**TEXT), vision_config=tr.CLIPVisionConfig(**TOWER), image_token_index=90
    ),
}


def folder_of(world, name):
    """A model as a Hub repository has it, with what its processor reads."""
    folder = world.folder / name
    if not folder.exists():
        torch.manual_seed(0)
        tr.AutoModelForImageTextToText.from_config(MODELS[name]()).save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    return folder


def run_of(world, name, label, **settings):
    return world.run(
        reference={"model": str(folder_of(world, name))},
        train={**FAST, "label": label, **settings},
    )


def weights(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def read_by_text(name):
    return (
        "language_model" in name or "lm_head" in name or name.startswith(("model.layers", "model.embed", "model.norm"))
    )


@torch.inference_mode()
def plain(model, prompt, completion):
    ids = torch.tensor([*prompt, *completion])
    logps = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)[len(prompt) - 1 : -1]
    return float(logps.gather(1, ids[len(prompt) :, None]).sum())


@pytest.mark.parametrize("name", MODELS)
def test_they_train_on_text_and_are_saved_whole(world, name):
    pairs = world.random_pairs(12)
    world.prepare(pairs, world.random_pairs(4, seed=1))
    run = run_of(world, name, "full")
    score.score(run)
    own = tr.AutoModelForImageTextToText.from_pretrained(folder_of(world, name)).eval()
    view = pl.read_parquet(RunPaths.of(run).reference("train"))
    by_pair = {row["pair_id"]: row for row in view.iter_rows(named=True)}
    for prompt, chosen, rejected in pairs:
        ids = pair_id(completion_id(prompt, chosen), completion_id(prompt, rejected))
        mine, other = by_pair[ids]["ref_chosen_logps"], by_pair[ids]["ref_rejected_logps"]
        assert mine == pytest.approx(plain(own, prompt, chosen), abs=1e-5 * len(chosen))
        assert other == pytest.approx(plain(own, prompt, rejected), abs=1e-5 * len(rejected))
    train.train(run)
    paths = RunPaths.of(run)
    first = json.loads((paths.training / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    policy, report = tr.AutoModelForImageTextToText.from_pretrained(paths.policy, output_loading_info=True)
    assert type(policy) is type(own)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    before, after = weights(folder_of(world, name)), weights(paths.policy)
    assert before.keys() == after.keys()
    same = {key for key in before if torch.equal(before[key], after[key])}
    towers = {key for key in before if not read_by_text(key)}
    assert towers
    assert towers <= same
    assert not any(key.endswith("proj.weight") for key in same - towers)
    assert (paths.policy / "preprocessor_config.json").read_bytes() == (
        folder_of(world, name) / "preprocessor_config.json"
    ).read_bytes()
    evaluate.evaluate(run)


def test_lora_adapts_the_language_model_alone_and_merges_into_the_whole(world):
    world.prepare(world.random_pairs(12), world.random_pairs(4, seed=1))
    run = run_of(world, "qwen2_5_vl", "lora", lora_rank=2)
    score.score(run)
    train.train(run)
    merge.merge(run)
    paths, base = RunPaths.of(run), folder_of(world, "qwen2_5_vl")
    adapted = load_file(paths.policy / "adapter_model.safetensors")
    assert adapted
    assert all(".language_model." in name for name in adapted)
    model = PeftModel.from_pretrained(tr.AutoModelForImageTextToText.from_pretrained(base), paths.policy).eval()
    merged = tr.AutoModelForImageTextToText.from_pretrained(paths.training / "merged").eval()
    prompt, chosen, _ = world.random_pairs(1)[0]
    assert plain(merged, prompt, chosen) == pytest.approx(plain(model, prompt, chosen), abs=1e-4)
    before, after = weights(base), weights(paths.training / "merged")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if not read_by_text(key))


def test_a_model_without_weights_trains_the_same_parameters(world):
    """What `estimate` counts, and what is sharded."""
    folder = folder_of(world, "gemma3")
    loaded = loading.load_model(str(folder), dtype="float32", device="cpu")
    empty = without_weights(folder, torch.float32)
    trained = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in empty.named_parameters() if parameter.requires_grad}
    assert trained < {name for name, _ in loaded.named_parameters()}
    assert all(map(read_by_text, trained))


def test_a_checkpoint_of_the_text_model_stays_one(world):
    """Qwen 3.5 has a class for text alone: which of the two a folder holds, its configuration says."""
    whole, text = multimodal.MODEL_FOR_MULTIMODAL_LM_MAPPING, multimodal.MODEL_FOR_CAUSAL_LM_MAPPING
    config = tr.Qwen3_5Config()
    for classes, wanted in ((whole, tr.AutoModelForMultimodalLM), (text, tr.AutoModelForCausalLM)):
        config.architectures = [classes[type(config)].__name__]
        assert multimodal.auto_class(config) is wanted


def test_an_encoder_decoder_is_refused_by_name():
    with pytest.raises(InputError, match="VisionEncoderDecoderModel is an encoder-decoder"):
        multimodal.auto_class(
            tr.VisionEncoderDecoderConfig(encoder={"model_type": "vit"}, decoder={"model_type": "gpt2"})
        )
    with pytest.raises(InputError, match="Blip2ForConditionalGeneration is an encoder-decoder"):
        multimodal.auto_class(tr.Blip2Config(text_config={"model_type": "t5"}))


@pytest.mark.long
def test_two_processes_with_a_part_each_train_the_same(world):
    world.prepare(world.random_pairs(12), world.random_pairs(4, seed=1))
    one = run_of(world, "qwen2_5_vl", "one")
    score.score(one)
    train.train(one)
    parts = one.model_copy(
        update={
            "compute": one.compute.model_copy(update={"shard": "full"}),
            "train": one.train.model_copy(update={"label": "parts"}),
        }
    )
    replicas = one.model_copy(update={"train": one.train.model_copy(update={"label": "replicas"})})
    launch("train", [parts, replicas], 2)
    expected = weights(RunPaths.of(one).policy)
    for run in (parts, replicas):
        found = weights(RunPaths.of(run).policy)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            tolerance = 2e-5 if read_by_text(name) else 0
            torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance)
