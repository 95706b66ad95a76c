"""A demo small enough for a test: every step writes what the next one reads."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scoreonce.pipeline.demo.task import prompts as draw_prompts
from scoreonce.schemas.errors import InputError
from scoreonce.stages import cli, config
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.demo import sampling as demo_sampling
from scoreonce.stages.demo import stage as demo

ROOT = Path(__file__).resolve().parents[3]
TINY = demo.Size(texts=60, pairs=24, judged=6, hidden=16, layers=1, max_new_tokens=12, batch=16, shown=2, best_of=2)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The demo's two run files, with every path under a temporary folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs"
    folder.mkdir()
    for name in ("demo_sft.toml", "demo.toml"):
        (folder / name).write_text((ROOT / "configs" / name).read_text(encoding="utf-8"))
    return config.load(folder / "demo_sft.toml"), config.load(folder / "demo.toml")


def texts(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_both_run_files_are_of_one_task(runs):
    sft, preferences = runs
    assert sft.data.seed == preferences.data.seed
    assert preferences.reference.model == str(RunPaths.of(sft).policy)


def test_task_writes_texts_tokenizer_and_model(runs, capsys):
    sft = runs[0]
    demo.task(sft, TINY)
    records = texts(sft.data.source)
    prompts = draw_prompts(sft.data.seed, texts=60, pairs=24, judged=6)
    assert [record["prompt"] for record in records] == [prompt.text for prompt in prompts.texts]
    tokenizer = AutoTokenizer.from_pretrained(sft.reference.model)
    for record in records:
        ids = tokenizer(record["completion"])["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == record["completion"]
    assert tokenizer(records[0]["prompt"])["input_ids"].count(tokenizer.bos_token_id) == 1
    model = AutoModelForCausalLM.from_pretrained(sft.reference.model)
    assert model.get_input_embeddings().weight.shape == (len(tokenizer), 16)
    assert "60 texts" in capsys.readouterr().out


def test_the_same_seed_writes_the_same_files(runs):
    sft = runs[0]
    demo.task(sft, TINY)
    folder = Path(sft.reference.model)
    before = {path.name: path.read_bytes() for path in [*folder.iterdir(), Path(sft.data.source)]}
    demo.task(sft, TINY)
    assert before == {path.name: path.read_bytes() for path in [*folder.iterdir(), Path(sft.data.source)]}


@pytest.mark.parametrize("mine", ["data", "model"])
def test_data_and_models_of_others_are_not_replaced(runs, mine):
    sft = runs[0]
    path = Path(sft.data.source) if mine == "data" else Path(sft.reference.model) / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"prompt": "mine"}\n')
    for command in (demo.task, demo.pairs) if mine == "data" else (demo.task,):
        with pytest.raises(InputError, match="would replace files that it has not written"):
            command(sft, TINY)
    assert path.read_text() == '{"prompt": "mine"}\n'
    assert [found for found in Path("runs").rglob("*") if found.is_file()] == [path]


def test_samples_end_with_the_end_token_and_repeat_with_the_seed(runs):
    sft = runs[0]
    demo.task(sft, TINY)
    model = AutoModelForCausalLM.from_pretrained(sft.reference.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(sft.reference.model)
    with torch.no_grad():  # whatever came before, the logits are 4, and 9.8 for EOS: as likely as 330 other tokens
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, 0] = 1.0
        model.lm_head.weight[tokenizer.eos_token_id, 0] = 2.45
    prompts = [prompt.text for prompt in draw_prompts(0, texts=40, pairs=0, judged=0).texts]
    options = {"max_new_tokens": 6, "batch": 16, "description": "test"}
    rows, again, other = (demo_sampling.sample(model, tokenizer, prompts, seed=seed, **options) for seed in (1, 1, 2))
    assert [row.prompt.tolist() for row in rows] == tokenizer(prompts)["input_ids"]
    completions, repeated, different = ([row.completions[0].tolist() for row in each] for each in (rows, again, other))
    assert completions == repeated
    assert completions != different
    assert {len(ids) for ids in completions} == {1, 2, 3, 4, 5, 6}
    for ids in completions:
        assert tokenizer.eos_token_id not in ids[:-1]
        assert len(ids) == 6 or ids[-1] == tokenizer.eos_token_id


def test_pairs_are_labelled_by_the_true_reward_with_noise(runs, monkeypatch):
    """Rewards 6 apart: the better side is chosen with probability sigmoid(6) = 0.998, so 24 of 24 but once in 20."""
    sft, preferences = runs
    demo.task(sft, TINY)
    preferences = preferences.model_copy(update={"reference": sft.reference})
    good, bad = "lovely golden warm gentle bright sweet", "Hello"
    written = iter([good, bad] * 24)
    monkeypatch.setattr(demo, "_texts", lambda rows, tokenizer: [next(written) for _ in rows])
    demo.pairs(preferences, TINY)
    records = texts(preferences.data.source)
    assert len(records) == 24
    prompts = draw_prompts(0, texts=60, pairs=24, judged=6).pairs
    assert [record["prompt"] for record in records] == [prompt.text for prompt in prompts]
    # The first 24 samples meet the second 24, prompt by prompt: here each text meets itself.
    assert all(record["chosen_score"] == record["rejected_score"] for record in records)
    written = iter([good] * 24 + [bad] * 24)
    demo.pairs(preferences, TINY)
    records = texts(preferences.data.source)
    assert sum(record["chosen"] == good for record in records) >= 23
    assert {record["chosen_score"] - record["rejected_score"] for record in records} <= {6.0, -6.0}


def test_judging_without_a_policy(runs):
    with pytest.raises(InputError, match="no policy to judge"):
        demo.judge(runs[1], TINY)


@pytest.mark.slow
def test_the_whole_demo_in_little(runs):
    """Task, reference, pairs, score, a policy, evaluation, verdict and page, in the order of `make demo`."""
    sft, preferences = runs

    def command(*arguments: str) -> None:
        assert cli.run_command(list(arguments)) == 0

    demo.task(sft, TINY)
    command("prepare", "configs/demo_sft.toml")
    command("train", "configs/demo_sft.toml", "--set", "train.max_steps=2")
    demo.pairs(preferences, TINY)
    for stage in ("prepare", "score"):
        command(stage, "configs/demo.toml")
    steps = ("--set", "train.max_steps=3", "--set", "train.checkpoint_every=1")
    command("train", "configs/demo.toml", "--method", "ipo", *steps)
    command("evaluate", "configs/demo.toml", "--method", "ipo")
    demo.judge(preferences, TINY)
    command("report", "configs/demo.toml")
    entries = json.loads(Path("runs/demo/demo.json").read_text())["policies"]
    assert [entry["label"] for entry in entries] == ["reference", "ipo"]
    reference, policy = entries
    assert reference["kl_mean"] == 0
    for entry in entries:
        assert entry["true_reward_low"] <= entry["true_reward_mean"] <= entry["true_reward_high"]
        assert len(entry["samples"]) == 2
    assert [point["step"] for point in policy["along"]] == [1, 2]
    # The first step warms up: its learning rate is 0.
    assert policy["along"][0]["kl_mean"] == 0
    assert len({0, policy["along"][1]["kl_mean"], policy["kl_mean"]}) == 3, "three different policies"
    page = Path("runs/demo/report.html").read_text(encoding="utf-8")
    assert "true reward" in page.lower()
    assert reference["samples"][0]["prompt"].strip() in page
