"""What the shell completes: commands and run files."""

import os
import subprocess
import sys

import pytest

from scoreonce.stages import cli
from scoreonce.stages.cli.completion import run_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("mine.toml", "more.toml", "pyproject.toml", "notes.txt", ".hidden.toml"):
        (tmp_path / name).write_text("")
    for name in ("configs/demo.toml", "configs/x.py", "data/deep/a.toml", ".git/b.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("begun", "offered"),
    [
        ("", ["mine.toml", "more.toml", "configs/demo.toml"]),
        ("m", ["mine.toml", "more.toml"]),
        ("mo", ["more.toml"]),
        ("con", ["configs/demo.toml"]),
        ("configs/", ["configs/demo.toml"]),
        ("configs/d", ["configs/demo.toml"]),
        ("data/", ["data/deep/a.toml"]),
        ("data", []),  # the shell offers the folder itself
        ("./m", ["./mine.toml", "./more.toml"]),
        (".h", [".hidden.toml"]),
        ("none/", []),
        ("notes", []),
    ],
)
def test_run_files(folder, begun, offered):
    assert run_files(begun) == offered


def test_run_files_by_their_whole_path(folder):
    assert run_files(f"{folder}/mi") == [f"{folder}/mine.toml"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["scoreonce", "tr"], ["train"]),
        (["scoreonce", "store", "ver"], ["verify"]),
        (["scoreonce", "train", "mi"], ["mine.toml"]),
        (["scoreonce", "doctor", "mi"], ["mine.toml"]),
        (["scoreonce", "watch", "mine.toml", "--on"], ["--once"]),
    ],
)
def test_bash_is_told(folder, monkeypatch, capsys, words, offered):
    monkeypatch.setenv("_SCOREONCE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    assert cli.run_command([]) == 0
    assert capsys.readouterr().out.split() == offered


def test_the_script_for_the_shell(monkeypatch, capsys):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert cli.run_command(["--show-completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "_SCOREONCE_COMPLETE=complete_bash" in script
    assert script.rstrip().endswith("scoreonce")


def test_completion_imports_nothing_heavy(folder):
    code = (
        "import sys; from scoreonce.stages import cli; cli.run_command([]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    environment = {
        **os.environ,
        "_SCOREONCE_COMPLETE": "complete_bash",
        "COMP_WORDS": "scoreonce train mi",
        "COMP_CWORD": "2",
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["mine.toml"]
    assert not {"torch", "polars", "pyarrow", "numpy"} & set(done.stderr.split())
