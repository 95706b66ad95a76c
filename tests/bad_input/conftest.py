"""A run that is prepared, scored and has a policy, and a way to say what a command must refuse.

Every case runs the command line in this process. It has to end with exit code 2 and one message of four parts, with no
traceback, and with nothing left in a folder of its own.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_input import Case, copy_of

from scoreonce.stages import cli

ROWS = [{"prompt": f"p{number}", "chosen": " yes", "rejected": " no"} for number in range(12)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
WORDS = ["<unk>", "</s>", "yes", "no", *(f"p{number}" for number in range(30))]
RUN = """
out = "out"
[data]
source = "pairs.jsonl"
test_share = 0.3
max_length = 32
[reference]
model = "model"
[compute]
device = "cpu"
[train]
max_steps = 1
beta = 0.2
"""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with run.toml, data and a model."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "run.toml").write_text(RUN)
    (folder / "pairs.jsonl").write_text(LINES)
    _write_model(folder / "model")
    return folder


@pytest.fixture(scope="session")
def finished(place: Path) -> Path:
    """The same folder once `prepare` and `score` have run there."""
    before = Path.cwd()
    os.chdir(place)
    try:
        assert [cli.run_command([stage, "run.toml"]) for stage in ("prepare", "score")] == [0, 0]
    finally:
        os.chdir(before)
    return place


def _write_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), **size)).save_pretrained(folder)
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)


@pytest.fixture
def refused(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Case], str]:
    """Run a case and check what its message says; returns the message."""
    monkeypatch.setenv("SCOREONCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(place)

    def run(case: Case) -> str:
        own = tmp_path / "own"
        own.mkdir()
        for name, content in case.files.items():
            path = own / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        if case.make is not None:
            case.make(own)
        if case.model is not None:
            copy_of(place / "model", own / "m", case.model)
        words = case.command.replace("RUN", str(place / "run.toml")).split(" ")
        # A blank inside a word is written as a non-breaking one.
        arguments = [word.replace("{own}", str(own)).replace("\N{NO-BREAK SPACE}", " ") for word in words]
        code = cli.run_command(arguments)
        said = capsys.readouterr().err
        assert "Traceback" not in said, said[-3000:]
        assert code == 2, said[-3000:]
        for part in case.says:
            assert part in said, said[-3000:]
        assert [line[:7] for line in said.splitlines()].count("error: ") == 1, said[-3000:]
        message = said[said.index("error: ") :]
        assert [message.count(part) for part in ("\n  found: ", "\n  where: ", "\n  do:    ")] == [1, 1, 1], message
        assert len(message) < 4000, "a message is read by people"
        assert not [path for path in own.rglob("*") if path.name.startswith(".") and path.suffix == ".tmp"]
        return message

    return run
