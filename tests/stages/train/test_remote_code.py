"""A model whose Python code comes with it, through every stage that loads it."""

import json
import sys

import pytest
from transformers import AutoModelForCausalLM, dynamic_module_utils

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.models import folders
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import merge
from scoreonce.stages.train import stage as train

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(world, tmp_path, monkeypatch):
    """A world whose model is code of its own: a Llama by another name."""
    folder = world.model()
    (folder / "own.py").write_text(CODE)
    path = folder / "config.json"
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    config = json.loads(path.read_text()) | {
        "model_type": "own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": classes,
        "attention_dropout": 0.25,
    }
    path.write_text(json.dumps(config))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # the cache is added to it
    monkeypatch.setattr(folders, "trust_remote_code", True)
    world.prepare(world.random_pairs(16), world.random_pairs(4, seed=1))
    return world


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_trusted_code_trains_is_saved_and_evaluated(own):
    fast = {"method": "dpo", "learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 2}
    whole, lora = own.run(train={**fast, "label": "whole"}), own.run(train={**fast, "label": "lora", "lora_rank": 2})
    score.score(whole)
    for run in (whole, lora):
        train.train(run)
        evaluate.evaluate(run)
    policies = [RunPaths.of(whole).policy, merge.merge(lora).model]
    for folder in policies:
        saved = json.loads((folder / "config.json").read_text())
        assert saved["attention_dropout"] == 0.25
        assert AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).config.model_type == "own"
    assert RunPaths.of(lora).policy.is_dir()


def test_code_that_is_not_trusted_is_not_run(own, monkeypatch):
    monkeypatch.setattr(folders, "trust_remote_code", False)
    (own.model() / "own.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(InputError, match="configuration cannot be loaded") as raised:
        score.score(own.run())
    assert raised.value.fix.endswith("add --trust-remote-code.")
