"""The documentation as a site, and its quick start as a new user runs it."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from scoreonce.stages import cli
from scoreonce.stages.demo import model as demo_model

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("a letter", "the harbour", "my garden", "an old boat", "warm bread")


def commands_of(page: str) -> list[list[str]]:
    """The words of each `scoreonce` line of the shell blocks, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "scoreonce"]


@pytest.mark.long
def test_the_quick_start_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCOREONCE_CACHE", str(tmp_path / "cache"))
    rows = [
        {"prompt": f"Write about {WORDS[i % 5]}, number {i}:", "chosen": f" {WORDS[i % 5]} is good", "rejected": " no"}
        for i in range(80)
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [row["prompt"] + row["chosen"] + row["rejected"] for row in rows]
    demo_model.write(Path("models/my-sft"), texts, hidden=16, layers=1, seed=0)
    commands = commands_of((ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8"))
    run = [words for words in commands if words[0] != "doctor"]
    assert [words[0] for words in run[:7]] == ["init", "prepare", "audit", "score", "train", "evaluate", "report"]
    for words in run:
        assert cli.run_command(words) == 0, words
    capsys.readouterr()
    assert cli.run_command(["path", "mine.toml", "report"]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert "beta_dpo" in page.read_text(encoding="utf-8")


@pytest.mark.long
def test_the_site_is_built_without_a_warning(tmp_path):
    """A link or a section that is not there is a warning."""
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("needs the extra docs")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", "docs", ".", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in (ROOT / "docs").glob("*.md"):
        assert (tmp_path / "docs" / f"{page.stem}.html").is_file()
    index = (tmp_path / "docs" / "api.html").read_text(encoding="utf-8")
    assert 'id="scoreonce.train"' in index
