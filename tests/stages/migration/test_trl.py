"""TRL configurations as run files: every key is accounted for, and what maps means the same."""

import dataclasses
import json

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages import config
from scoreonce.stages.migration import trl, trl_keys
from scoreonce.stages.migration.mapped import Given, read_configuration
from scoreonce.stages.run_text import tree

MINIMAL = {"model_name_or_path": "models/sft", "dataset_name": "data/pairs"}


def translated(processes=1, model=None, data=None, **values):
    given = Given("TRL", "dpo.yaml", {**MINIMAL, **values})
    return trl.translate(given, model=model, data=data, out="runs/x", processes=processes)


def settings(**values):
    """The values of the run file by key, checked as a run file is."""
    found = translated(**values)
    config.checked(tree(found.lines), "the test")
    return {line.key: line.value for line in found.lines}


def verdicts(**values):
    return {remark.key: remark.verdict for remark in translated(**values).remarks}


@pytest.mark.slow
def test_every_field_of_trls_config_is_decided():
    """A field that a new version of TRL adds fails here, until trl_keys.py says what becomes of it."""
    found = pytest.importorskip("trl.trainer.dpo_config", exc_type=ImportError)
    assert {field.name for field in dataclasses.fields(found.DPOConfig)} - set(trl_keys.KEYS) == set()


@pytest.mark.slow
def test_every_argument_of_trls_script_is_decided():
    pytest.importorskip("trl", exc_type=ImportError)
    from trl.scripts.utils import DatasetMixtureConfig, ScriptArguments
    from trl.trainer.model_config import ModelConfig

    for kind in (ModelConfig, ScriptArguments, DatasetMixtureConfig):
        assert {field.name for field in dataclasses.fields(kind)} - set(trl_keys.KEYS) == set()


def test_no_key_has_two_verdicts():
    named = [*trl_keys.MAPPED, *" ".join([*trl_keys.NOT_NEEDED.values(), *trl_keys.NOT_SUPPORTED.values()]).split()]
    assert len(named) == len(set(named))


VALUES = {
    "loss_type": ["sigmoid", "robust"],
    "loss_weights": [1, 0.5],
    "label_smoothing": 0.0,
    "ld_alpha": None,
    "report_to": ["tensorboard"],
    "datasets": [{"path": "org/pairs", "split": "train"}],
    "model_init_kwargs": {"revision": "v1", "device_map": "auto"},
    "sync_ref_model": False,
    "reference_free": False,
    "f_divergence_type": "js_divergence",
    "bnb_4bit_quant_type": "nf4",
    "lora_target_modules": ["q_proj"],
    "lora_modules_to_save": ["lm_head"],
    "optim": "sgd",
    "lr_scheduler_type": "cosine",
    "max_steps": 10,
    "save_strategy": "steps",
    "train_sampling_strategy": "random",
    "truncation_mode": "keep_start",
    "use_weighting": False,
    "fsdp": "full_shard",
    "eval_strategy": "steps",
    "evaluation_strategy": "no",
    "load_best_model_at_end": True,
}


def value_of(name):
    """Something that the key can have: most are numbers, flags or texts."""
    flags = ("bf16", "fp16", "use_", "load_in", "streaming", "checkpointing", "torch_compile", "dropout")
    if name in VALUES or any(part in name for part in flags):
        return VALUES.get(name, True)
    texts = ("name", "model", "dtype", "revision", "split", "dir", "config")
    return "text" if any(part in name for part in texts) and "size" not in name else 1


@pytest.mark.parametrize("on", [True, False])
def test_every_key_ends_in_exactly_one_place(on):
    """All keys at once, set or null: each in the lines, in the remarks or, unknown, in the list of those."""
    given = {**{name: value_of(name) if on else None for name in trl_keys.KEYS}, **MINIMAL, "new_in_2030": 1}
    found = translated(**given)
    inner = {f"model_init_kwargs.{name}" for name in VALUES["model_init_kwargs"]}
    used = {source for line in found.lines for source in line.sources}
    remarked = [remark.key for remark in found.remarks]
    assert found.unknown == ("new_in_2030",)
    assert len(remarked) == len(set(remarked))
    assert not used & set(remarked)
    assert used | {*remarked, "new_in_2030"} == (set(given) - {"model_init_kwargs"} | inner if on else set(given))
    assert all(remark.why for remark in found.remarks)


def test_trls_defaults_are_written_where_a_run_files_differ():
    found = settings()
    assert {key: found[key] for key in found if key.startswith("train.")} == {
        "train.method": "dpo",
        "train.beta": 0.1,
        "train.learning_rate": 1e-6,
        "train.batch_pairs": 8,
        "train.epochs": 3.0,
        "train.scheduler": "linear",
        "train.warmup_ratio": 0.0,
        "train.gradient_checkpointing": True,
        "train.seed": 42,
    }
    assert found["data.max_length"] == 1024
    assert found["data.test_share"] == 0.0
    assert found["reference.dtype"] == "bfloat16"
    assert found["out"] == "runs/x"


@pytest.mark.slow
def test_these_defaults_are_those_of_the_installed_trl():
    config_of = pytest.importorskip("trl.trainer.dpo_config", exc_type=ImportError).DPOConfig
    default = {field.name: field.default for field in dataclasses.fields(config_of)}
    assert (default["beta"], default["learning_rate"], default["max_length"]) == (0.1, 1e-6, 1024)
    assert (default["per_device_train_batch_size"], default["gradient_accumulation_steps"]) == (8, 1)
    assert (default["num_train_epochs"], default["warmup_steps"], default["seed"]) == (3.0, 0, 42)
    assert (default["gradient_checkpointing"], default["bf16"], default["fp16"]) == (True, None, False)
    assert (default["discopop_tau"], default["f_alpha_divergence_coef"], default["lr_scheduler_type"]) == (
        0.05,
        0.5,
        "linear",
    )
    assert (default["use_weighting"], default["ld_alpha"], default["label_smoothing"]) == (False, None, 0.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_whole_configuration_that_trl_wrote(tmp_path):
    """Every field with its default, as JSON: none is unknown, and the values are those of the test above."""
    config_of = pytest.importorskip("trl.trainer.dpo_config", exc_type=ImportError).DPOConfig
    (tmp_path / "a.json").write_text(config_of(output_dir="runs/x", use_cpu=True).to_json_string())
    given = read_configuration("TRL", tmp_path / "a.json")
    found = trl.translate(given, model="m", data="d.jsonl", out="x", processes=1)
    assert found.unknown == ()
    assert [remark.key for remark in found.remarks if remark.verdict == "not supported"] == []
    values = {line.key: line.value for line in found.lines}
    bare = settings()
    assert {key: values[key] for key in bare if key.startswith("train.")} == {
        key: value for key, value in bare.items() if key.startswith("train.")
    }
    config.checked(tree(found.lines), "the test")


def test_a_step_has_the_pairs_of_all_devices():
    """4 a device, 4 micro-batches, 8 processes: 128."""
    assert (
        settings(per_device_train_batch_size=4, gradient_accumulation_steps=4, processes=8)["train.batch_pairs"] == 128
    )


@pytest.mark.parametrize(
    ("given", "ratio"),
    [
        ({"warmup_steps": 0.1}, 0.1),
        ({"warmup_ratio": 0.05}, 0.05),
        ({"warmup_steps": 150, "max_steps": 1000}, 0.15),
        ({"warmup_steps": 150, "warmup_ratio": 0.1, "max_steps": 300}, 0.5),
    ],
)
def test_warm_up_as_a_share(given, ratio):
    found = settings(**given)
    assert found["train.warmup_ratio"] == pytest.approx(ratio)


@pytest.mark.parametrize("steps", [7, 11, 49, 100, 203])
def test_warm_up_steps_are_the_same_number_of_steps(steps):
    """`train` rounds share * steps up, in floating point."""
    import math

    for warm in range(1, steps + 1):
        share = settings(warmup_steps=warm, max_steps=steps)["train.warmup_ratio"]
        assert math.ceil(steps * share) == warm


def test_warm_up_steps_of_an_unknown_number_of_steps_are_named():
    found = translated(warmup_steps=100, per_device_train_batch_size=4)
    (remark,) = [each for each in found.remarks if each.key == "warmup_steps"]
    assert remark.verdict == "not supported"
    assert "100 * 4 / (pairs * epochs)" in remark.why


def test_max_steps_decides_over_epochs():
    found = settings(max_steps=20, num_train_epochs=2)
    assert found["train.max_steps"] == 20
    assert "train.epochs" not in found
    assert verdicts(max_steps=20, num_train_epochs=2)["num_train_epochs"] == "not needed"


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ({}, "bfloat16"),
        ({"bf16": True, "dtype": "float32"}, "bfloat16"),
        ({"bf16": False}, "float32"),
        ({"bf16": False, "dtype": "bfloat16"}, "bfloat16"),
        ({"bf16": False, "dtype": "auto"}, "float32"),
        ({"bf16": False, "model_init_kwargs": {"torch_dtype": "bfloat16"}}, "bfloat16"),
        ({"fp16": True}, "float32"),
    ],
)
def test_dtypes(given, dtype):
    assert settings(**given)["reference.dtype"] == dtype


def test_lora_with_trls_defaults():
    found = settings(use_peft=True)
    assert found["train.lora_rank"] == 16
    assert found["train.lora_alpha"] == 32
    assert found["train.lora_dropout"] == 0.05
    assert found["train.lora_targets"] == ["all-linear"]
    given = {"lora_r": 8, "lora_target_modules": "q_proj, v_proj", "use_dora": True, "load_in_4bit": True}
    found = settings(use_peft=True, **given)
    assert found["train.lora_rank"] == 8
    assert found["train.lora_targets"] == ["q_proj", "v_proj"]
    assert found["train.lora_use_dora"] is True
    assert found["reference.quantization"] == "nf4"
    assert "train.lora_rank" not in settings(lora_r=8)
    assert verdicts(lora_r=8)["lora_r"] == "not needed"


def test_data_of_a_mixture_of_one_and_of_the_command_line():
    found = settings(datasets=[{"path": "json", "data_files": "a.jsonl", "split": "train"}])
    assert found["data.source"] == "a.jsonl"
    assert "data.split" not in found
    found = settings(datasets=[{"path": "org/a", "name": "small", "split": "prefs"}])
    assert (found["data.source"], found["data.subset"], found["data.split"]) == ("org/a", "small", "prefs")
    found = settings(data="b.jsonl", dataset_train_split="train", dataset_config="x")
    assert found["data.source"] == "b.jsonl"
    assert not {"data.subset", "data.split"} & set(found)


def test_held_out_data_as_trl_evaluates():
    found = settings(eval_strategy="steps", dataset_test_split="test_prefs")
    assert found["data.test_split"] == "test_prefs"
    assert "data.test_share" not in found
    assert settings(eval_strategy=False)["data.test_share"] == 0.0  # an unquoted `no` of YAML


def test_figures_while_training():
    """As TRL's trainer evaluates; without held-out pairs or a number of steps, what to set."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_rewards/accuracies"}
    found = settings(eval_strategy="steps", eval_steps=50, **best)
    assert {key: found[key] for key in found if key.startswith("evaluate.")} == {
        "evaluate.every": 50,
        "evaluate.policy": "best",
        "evaluate.metric": "accuracy",
    }
    assert config.checked(tree(translated(eval_strategy="steps", eval_steps=50, **best).lines), "here").evaluate.decides
    for given in ({"eval_strategy": "epoch"}, {"eval_strategy": "steps", "eval_steps": 0.1}, {"eval_steps": 50}):
        assert not [key for key in settings(**given, **best) if key.startswith("evaluate.")]
        assert verdicts(**given, **best)["load_best_model_at_end"] == "not supported"
    unknown = {"metric_for_best_model": "bleu"}
    assert verdicts(eval_strategy="steps", eval_steps=50, **unknown)["metric_for_best_model"] == "not supported"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sync_ref_model": True}, "TR-DPO"),
        ({"reference_free": True}, "without a reference"),
        ({"loss_type": "kto_pair"}, "no loss type 'kto_pair'"),
        ({"loss_type": ["sigmoid", "hinge"], "loss_weights": [1]}, "cannot be said"),
        ({"loss_type": ["sigmoid", "sigmoid"]}, "cannot be said"),
        ({"loss_type": ["sigmoid", "robust"], "label_smoothing": 0.1}, "leaves it out of sigmoid"),
        ({"loss_type": "hinge", "use_weighting": True}, "no method here"),
        ({"loss_type": "ipo", "ld_alpha": 0.5}, "no method here"),
        ({"loss_type": "exo_pair"}, "above 0"),
        ({"f_divergence_type": "other"}, "No such divergence"),
        ({"datasets": [{"path": "a"}, {"path": "b"}]}, "mixture"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "NF4"),
        ({"learning_rate": "fast"}, "cannot be read"),
        ({"per_device_train_batch_size": 1.5}, "cannot be read"),
        ({"bf16": "maybe"}, "cannot be read"),
    ],
)
def test_what_is_refused(given, said):
    with pytest.raises(InputError) as caught:
        translated(**given)
    assert said in str(caught.value)
    assert caught.value.where == "dpo.yaml"
    assert caught.value.fix


def test_a_model_and_data_have_to_be_named():
    with pytest.raises(InputError, match="names no model"):
        trl.translate(Given("TRL", "f", {"dataset_name": "d"}), model=None, data=None, out="o", processes=1)
    with pytest.raises(InputError, match="names no dataset"):
        trl.translate(Given("TRL", "f", {"model_name_or_path": "m"}), model=None, data=None, out="o", processes=1)


def test_files_are_yaml_or_json(tmp_path):
    (tmp_path / "a.yaml").write_text("learning_rate: 5e-7\nloss_type: sigmoid\neval_strategy: no\n")
    (tmp_path / "a.json").write_text(json.dumps({"learning_rate": 5e-7, "loss_type": ["sigmoid"]}))
    for name in ("a.yaml", "a.json"):
        assert read_configuration("TRL", tmp_path / name).number("learning_rate", 0) == 5e-7
    for name, text in (("b.yaml", "a: [1"), ("c.yaml", "- 1"), ("d.yaml", ""), ("e.yaml", "!!python/object:os.X {}")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="The TRL configuration"):
            read_configuration("TRL", tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read_configuration("TRL", tmp_path / "absent.yaml")
