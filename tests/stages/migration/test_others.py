"""Axolotl's and LLaMA-Factory's configurations of preference training."""

import json

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages import config
from scoreonce.stages.migration import axolotl, llamafactory
from scoreonce.stages.migration.mapped import Given
from scoreonce.stages.run_text import tree

AXOLOTL = {"base_model": "m", "datasets": [{"path": "org/d", "split": "train"}], "learning_rate": "5e-6", "rl": "dpo"}
LLAMA = {"model_name_or_path": "m", "stage": "dpo"}


def translated(tool, values, data=None, processes=1):
    found = tool.translate(Given(tool.TOOL, "c.yaml", values), model=None, data=data, out="runs/x", processes=processes)
    config.checked(tree(found.lines), "the test")
    return found


def of_axolotl(**values):
    return {line.key: line.value for line in translated(axolotl, {**AXOLOTL, **values}).lines}


def of_llamafactory(**values):
    return {line.key: line.value for line in translated(llamafactory, {**LLAMA, **values}, data="d.jsonl").lines}


@pytest.mark.parametrize(("tool", "base"), [(axolotl, AXOLOTL), (llamafactory, {**LLAMA, "finetuning_type": "full"})])
def test_every_key_ends_in_exactly_one_place(tool, base):
    """Those that do not map as 1, which is on, and three that nobody knows."""
    given = {name: 1 for name, key in tool.KEYS.items() if key.verdict != "maps"}
    found = translated(tool, {**base, **given, "new": 1, "newer": None, "newest": False}, data="d.jsonl")
    used = {source for line in found.lines for source in line.sources}
    remarked = {remark.key for remark in found.remarks}
    assert set(found.unknown) == {"new", "newer", "newest"}
    assert not used & remarked
    assert used | remarked == {*base, *given}
    assert {each.key for each in found.remarks if each.verdict == "not supported"} == {
        name for name, key in tool.KEYS.items() if key.verdict == "not supported"
    }


def test_axolotls_defaults():
    found = of_axolotl()
    assert {key: found[key] for key in found if key.startswith("train.")} == {
        "train.method": "dpo",
        "train.beta": 0.1,
        "train.learning_rate": 5e-6,
        "train.batch_pairs": 1,
        "train.epochs": 1.0,
        "train.scheduler": "cosine",
        "train.warmup_ratio": 0.03,
        "train.gradient_checkpointing": False,
        "train.optimizer": "adamw_torch_fused",
    }
    assert found["data.max_length"] == 512
    assert found["reference.dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rl": "ipo", "rl_beta": 0.2}, {"train.method": "ipo", "train.beta": 0.2}),
        ({"rl": "orpo", "orpo_alpha": 0.3}, {"train.method": "orpo", "train.lam": 0.3}),
        (
            {"rl": "simpo", "rl_beta": 2.5, "simpo_gamma": 1.0, "cpo_alpha": 0},
            {"train.method": "simpo", "train.beta": 2.5, "train.gamma_beta_ratio": 0.4},
        ),
        ({"rl": "simpo"}, {"train.objective": "simpo + sft_tokens", "train.gamma_beta_ratio": 5.0}),
        (
            {"rl": "kto", "kto_desirable_weight": 0.5},
            {"train.method": "kto", "train.desirable_weight": 0.5, "score.mismatched": True},
        ),
        ({"dpo_loss_type": ["robust"], "dpo_label_smoothing": 0.2}, {"train.label_smoothing": 0.2}),
        ({"dpo_use_weighting": True}, {"train.method": "wpo", "train.clamp": "none"}),
        ({"trl": {"beta": 0.7}, "rl_beta": 0.1}, {"train.beta": 0.7}),
        (
            {"adapter": "qlora", "lora_r": 4, "load_in_4bit": True},
            {"train.lora_rank": 4, "reference.quantization": "nf4"},
        ),
        ({"fsdp_config": {"offload_params": True}}, {"compute.shard": "full", "compute.offload": True}),
        ({"bf16": False}, {"reference.dtype": "float32"}),
        ({"use_wandb": True}, {"train.log_with": ["wandb"]}),
        ({"val_set_size": 0.05}, {"data.test_share": 0.05}),
    ],
)
def test_axolotl(given, expected):
    found = of_axolotl(**given)
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rl": "grpo"}, "no training on preference data"),
        ({"rl": None}, "no training on preference data"),
        ({"datasets": [{"path": "a"}, {"path": "b"}]}, "one dataset"),
        ({"adapter": "ia3"}, "not trained here"),
        ({"learning_rate": None}, "no learning rate"),
        ({"trl": {"sync_ref_model": True}}, "TR-DPO"),
        ({"dpo_loss_type": ["kto_pair"]}, "kto_pair"),
    ],
)
def test_axolotl_refused(given, said):
    with pytest.raises(InputError, match=said):
        of_axolotl(**given)


def test_what_is_inside_a_value_and_does_not_map_is_named():
    entry = {"path": "org/d", "type": "chatml.intel", "field_chosen": "good"}
    found = translated(axolotl, {**AXOLOTL, "datasets": [entry], "trl": {"beta": 0.1, "use_vllm": True}})
    whys = {line.key: line.why for line in found.lines}
    assert "type, field_chosen" in whys["data.source"]
    assert "use_vllm" in whys["train.beta"]


def test_axolotl_evaluates_by_the_epoch_and_stops_early():
    found = of_axolotl(val_set_size=0.1, evals_per_epoch=4, early_stopping_patience=3)
    assert (found["evaluate.every"], found["evaluate.patience"], found["data.test_share"]) == (0.25, 3, 0.1)
    assert "evaluate.every" not in of_axolotl(evals_per_epoch=4)
    assert "evaluate.every" not in of_axolotl(val_set_size=0.1, evals_per_epoch=1)


def test_llamafactory_evaluates_by_steps():
    assert of_llamafactory(val_size=0.1, eval_strategy="steps", eval_steps=500)["evaluate.every"] == 500


def test_llamafactorys_defaults():
    found = of_llamafactory()
    assert {key: found[key] for key in found if key.startswith("train.")} == {
        "train.method": "dpo",
        "train.beta": 0.1,
        "train.learning_rate": 5e-5,
        "train.batch_pairs": 8,
        "train.epochs": 3.0,
        "train.scheduler": "linear",
        "train.warmup_ratio": 0.0,
        "train.gradient_checkpointing": True,
        "train.seed": 42,
        "train.lora_rank": 8,
        "train.lora_alpha": 16.0,
        "train.lora_dropout": 0.0,
        "train.lora_targets": ["all-linear"],
    }
    assert found["data.max_length"] == 2048
    assert found["reference.dtype"] == "float32"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"pref_loss": "simpo", "pref_beta": 2.0, "simpo_gamma": 1.0}, {"train.gamma_beta_ratio": 0.5}),
        ({"pref_loss": "orpo", "pref_beta": 0.2}, {"train.method": "orpo", "train.lam": 0.2}),
        ({"dpo_label_smoothing": 0.1}, {"train.method": "dpo", "train.label_smoothing": 0.1}),
        ({"pref_ftx": 0.5}, {"train.objective": "dpo + 0.5*sft"}),
        ({"pref_bco_weight": 1.0, "pref_ftx": 2.0}, {"train.objective": "0.5*dpo + 0.5*bco + 2.0*sft"}),
        ({"ld_alpha": 0.4}, {"train.method": "ld_dpo", "train.ld_alpha": 0.4}),
        ({"stage": "kto", "kto_rejected_weight": 0.5}, {"train.method": "kto", "train.undesirable_weight": 0.5}),
        ({"ref_model": "r"}, {"reference.model": "r", "train.model": "m"}),
        ({"quantization_bit": 4}, {"reference.quantization": "nf4"}),
        ({"disable_shuffling": True}, {"train.shuffle": False}),
        ({"bf16": True, "warmup_ratio": 0.1}, {"reference.dtype": "bfloat16", "train.warmup_ratio": 0.1}),
    ],
)
def test_llamafactory(given, expected):
    found = of_llamafactory(**given)
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stage": "sft"}, "no training on preference data"),
        ({"pref_loss": "kto_pair"}, "no method here"),
        ({"finetuning_type": "freeze"}, "not trained here"),
        ({"quantization_bit": 8}, "NF4"),
        ({"pref_loss": "ipo", "ld_alpha": 0.5}, "a form of DPO"),
    ],
)
def test_llamafactory_refused(given, said):
    with pytest.raises(InputError, match=said):
        of_llamafactory(**given)


def test_llamafactorys_dataset_info(tmp_path):
    info = {
        "mine": {"file_name": "mine.json", "ranking": True, "columns": {"prompt": "question", "chosen": "good"}},
        "hub": {"hf_hub_url": "org/pairs", "subset": "small", "formatting": "sharegpt"},
        "empty": {},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))

    def found(name):
        values = {**LLAMA, "dataset": name, "dataset_dir": str(tmp_path)}
        return {line.key: line for line in translated(llamafactory, values).lines}

    assert found("mine")["data.source"].value == str(tmp_path / "mine.json")
    assert found("mine")["data.columns"].value == {"prompt": "question", "chosen": "good"}
    assert (found("hub")["data.source"].value, found("hub")["data.subset"].value) == ("org/pairs", "small")
    assert "formatting" in found("hub")["data.source"].why
    for name in ("absent", "empty", "mine,hub"):
        with pytest.raises(InputError):
            found(name)
