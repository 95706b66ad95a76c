"""The claims of docs/security.md: what untrusted data, models and run files cannot do."""

import ast
import json
import os
import pickle
import socket
from pathlib import Path

import pytest
from bad_input import copy_of
from jinja2.exceptions import TemplateError

from scoreonce.pipeline.templates.renderer import chat_renderer
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.schemas.errors import InputError, printable
from scoreonce.stages import cli
from scoreonce.stages.models.loading import load_model
from scoreonce.stages.models.tokenizers import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for folder in ("schemas", "pipeline", "stages") for path in sorted((ROOT / folder).rglob("*.py"))]
UNPICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NETWORK = {
    "urllib",
    "http",
    "requests",
    "httpx",
    "aiohttp",
    "ftplib",
    "smtplib",
    "socketserver",
    "subprocess",
    "openai",
}
# Sources that start a process, without a shell: this interpreter on a run file, and nvidia-smi.
STARTS_PROCESSES = {ROOT / "stages" / "compare" / "trials.py", ROOT / "stages" / "doctor" / "machine.py"}
# The source that asks a judge at judge.endpoint; `urllib` there only takes its URL apart.
ASKS_A_SERVER = ROOT / "stages" / "judge" / "endpoint.py"
# Sources that run a Python file, with consent.
RUNS_FILES = {ROOT / "stages" / "common" / "method_file.py"}
STAGES = ("prepare", "audit", "score", "train", "evaluate", "report")


def calls(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_unpickles_runs_text_or_uses_the_network(path):
    allowed = {"subprocess"} if path in STARTS_PROCESSES else {"openai", "urllib"} if path == ASKS_A_SERVER else set()
    assert not imports(path) & (UNPICKLES | NETWORK - allowed)
    assert "shell=True" not in path.read_text(encoding="utf-8")
    assert not calls(path) & {"torch.load", "torch.save", "np.load", "os.system", "os.popen", "eval", "pd.read_pickle"}
    executes = calls(path) & {"exec", "compile"}
    assert not executes or path in RUNS_FILES


class Evil:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_weights_run_nothing(place, tmp_path):
    copy_of(place / "model", tmp_path / "m", {"model.safetensors": None})
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Evil(tmp_path / "ran")}))
    with pytest.raises(InputError):
        load_model(str(tmp_path / "m"), dtype="float32", device="cpu")
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_model_does_not_run(place, tmp_path):
    own = json.loads((place / "model" / "config.json").read_text())
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Evil: ...\n"
    auto_map = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    config = json.dumps(own | {"auto_map": auto_map, "model_type": "evil"})
    tokenizer = json.dumps({"auto_map": auto_map, "tokenizer_class": "Evil"})
    changed = {"config.json": config, "tokenizer_config.json": tokenizer, "evil.py": code}
    copy_of(place / "model", tmp_path / "m", changed)
    with pytest.raises(InputError):
        load_model(str(tmp_path / "m"), dtype="float32", device="cpu")
    with pytest.raises(InputError):
        load_tokenizer(str(tmp_path / "m"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__()[0] }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ cycler.__init__.__globals__.os.system('id') }}",
    ],
)
def test_a_chat_template_stays_in_its_sandbox(place, template):
    tokenizer = load_tokenizer(str(place / "model"))
    tokenizer.chat_template = template
    with pytest.raises((RowError, TemplateError)):
        chat_renderer(tokenizer)([{"role": "user", "content": "hello"}], True)


@pytest.mark.slow
def test_a_local_run_stays_local(place, tmp_path, monkeypatch):
    """No stage connects anywhere, and nothing changes but `out` and the folder of remembered digests."""

    def refuse(self, address):
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("SCOREONCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if "out" not in path.relative_to(place).parts}
    for stage in STAGES:
        assert cli.run_command([stage, "run.toml", "--set", f"out={tmp_path / 'own' / 'out'}"]) == 0
    after = {path: path.stat().st_mtime_ns for path in place.rglob("*") if "out" not in path.relative_to(place).parts}
    assert after == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "own"]
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["out"]


def test_text_of_data_does_not_drive_the_terminal():
    assert (
        printable("a\x1b[31m\r\x07\x9b\u202eb\n\tc \xa0 \u200d é")
        == "a\\x1b[31m\\r\\x07\\x9b\\u202eb\n\tc \xa0 \u200d é"
    )
    error = InputError("\x1b[2J", found="\x07", where="\u202e", fix="\x00")
    assert not set("\x1b\x07\u202e\x00") & set(str(error))
    assert len(InputError("w", found="x" * 10**6, where="w", fix="f").found) < 2000
