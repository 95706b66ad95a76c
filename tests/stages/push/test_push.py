"""A policy reaches a stand-in for the Hub by huggingface_hub's own client, with its card, whole or not at all."""

import json
import shutil

import pytest
import torch
import yaml
from hub_server import serving
from transformers import AutoModelForCausalLM

from scoreonce.schemas.errors import InputError
from scoreonce.stages.push import published
from scoreonce.stages.push.stage import push
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import stage as train

# Of huggingface_hub's own upload of a large file without Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

FAST = {"batch_pairs": 8, "max_steps": 1, "verify_pairs": 0}


@pytest.fixture
def hub(monkeypatch):
    """The stand-in, as the client's endpoint."""
    from huggingface_hub import constants, hf_api
    from huggingface_hub.utils import _runtime

    with serving() as server:
        for module in (constants, hf_api):
            monkeypatch.setattr(module, "ENDPOINT", server.url, raising=False)
        monkeypatch.setattr(hf_api.HfApi, "__init__", _at(server.url, hf_api.HfApi.__init__))
        monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
        monkeypatch.setattr(_runtime, "is_xet_available", lambda: False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def _at(url, honest):
    return lambda self, *arguments, **options: honest(self, *arguments, **{"endpoint": url, **options})


@pytest.fixture
def trained(world):
    world.prepare(world.random_pairs(16), world.random_pairs(8, seed=2))
    run = world.run(train={**FAST, "label": "mine"})
    score.score(run)
    train.train(run)
    return world, run


def test_the_repository_has_the_policy_and_a_card(trained, hub, tmp_path):
    from scoreonce.stages.audit import stage as audit
    from scoreonce.stages.evaluate import stage as evaluate

    world, run = trained
    evaluated = evaluate.evaluate(run)
    audit.audit(run)
    made = push(run, "org/mine")
    assert made.url.startswith(f"{hub.url}/org/mine/commit/")
    assert hub.private["org/mine"]
    files = hub.repositories["org/mine"]["main"]
    there = {path.name for path in (world.folder / "out/train/mine/model").iterdir()}
    assert set(files) == there - {"scoreonce.json"}
    # What was sent is a model, with the weights that were trained.
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    ours = AutoModelForCausalLM.from_pretrained(world.folder / "out/train/mine/model")
    for mine, sent in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, sent)
    text = files["README.md"].decode()
    assert f"{evaluated.summary['accuracy']:.1%}" in text
    assert "## Audit of the data" in text
    assert str(world.folder) not in text
    assert "base_model" not in yaml.safe_load(text.split("---")[1])  # a folder is no name on the Hub


def test_what_is_there_is_not_sent_again(trained, hub):
    _, run = trained
    push(run, "org/mine", public=True, message="first")
    assert hub.private["org/mine"] is False
    assert (hub.commits, hub.uploads) == (["first"], 1)
    push(run, "org/mine", message="second")
    assert (hub.commits, hub.uploads) == (["first"], 1)
    push(run, "org/mine", revision="other", base="org/base")
    assert hub.commits == ["first", "mine"]
    card = hub.repositories["org/mine"]["other"]["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "org/base"
    assert hub.repositories["org/mine"]["main"]["README.md"].decode() != card


def test_an_adapter_names_a_base_that_others_can_load(world, hub):
    world.prepare(world.random_pairs(16))
    run = world.run(train={**FAST, "label": "lora", "lora_rank": 2})
    score.score(run)
    train.train(run)
    with pytest.raises(InputError, match="folder of this machine") as caught:
        push(run, "org/lora")
    assert "--base" in caught.value.fix
    assert not hub.repositories
    push(run, "org/lora", base="org/base")
    files = hub.repositories["org/lora"]["main"]
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "org/base"
    assert config["r"] == 2
    assert yaml.safe_load(files["README.md"].decode().split("---")[1])["library_name"] == "peft"
    with pytest.raises(InputError, match="no merged model"):
        push(run, "org/lora", merged=True)


def test_a_dry_run_sends_nothing(trained, hub, caplog):
    caplog.set_level("INFO", logger="scoreonce")
    _, run = trained
    made = push(run, "org/mine", dry_run=True)
    assert made.url is None
    assert {"README.md", "model.safetensors"} <= made.files.keys()
    assert any("would send model.safetensors" in message for message in caplog.messages)
    assert not hub.repositories


def test_what_the_hub_refuses_is_said(trained, hub, monkeypatch):
    _, run = trained
    with pytest.raises(InputError, match="did not take") as caught:
        push(run, "not a/name/at all")
    assert "ORG/NAME" in caught.value.fix
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match="did not take") as caught:
        push(run, "org/mine")
    assert "401" in caught.value.found
    assert "HF_TOKEN" in caught.value.fix


def test_a_damaged_policy_is_not_sent(trained, hub):
    world, run = trained
    policy = world.folder / "out/train/mine/model"
    weights = policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(InputError, match="not what `scoreonce train` wrote"):
        push(run, "org/mine")
    shutil.rmtree(policy)
    with pytest.raises(InputError, match="no trained policy"):
        push(run, "org/mine")
    assert not hub.repositories


def test_which_names_are_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/sft").mkdir(parents=True)
    assert published.is_local("models/sft")
    assert published.is_local(str(tmp_path / "absent"))
    for name in ("org/name", "s3://bucket/x", "bfloat16", "", "abs(ref_margin) < 20"):
        assert not published.is_local(name)
