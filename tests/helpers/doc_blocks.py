"""The shell and Python blocks of README and docs, and a folder in which they run as they stand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from judged_samples import reward_model
from text_runs import text_run

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```(sh|python)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)

# Small: a few pairs, steps and tokens. Every page's run file is this one, with what the page adds.
RUN_FILE = """
out = "runs/mine"
[data]
source = "pairs.jsonl"
test_share = 0.4
max_length = 128
[reference]
model = "models/sft"
[compute]
device = "cpu"
[train]
batch_pairs = 4
max_steps = 2
[sample]
max_new_tokens = 6
limit = 4
[judge]
reward_model = "models/reward"
"""


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block of a page, README.md or a file of docs/, in order."""
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [(language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)) for indent, language, text in found]


@dataclass
class Folder:
    """A user's folder. `environment` is added to that of the tests; `ran` are pages and numbers of blocks."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)
    ran: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.programs = self.path / "programs"
        self.programs.mkdir(exist_ok=True)

    def program(self, name: str, script: str) -> None:
        """A stand-in for a program of others."""
        path = self.programs / name
        path.write_text(f"#!/usr/bin/env bash\nset -eu\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def run(self, page: str, number: int, changes: dict[str, str] | None = None, before: str = "") -> str:
        """Run a block of a page to its end and return what it printed.

        `changes` put something else in the place of what the page says, each in at least one place; `before` are lines
        in the block's language that come first.
        """
        self.ran.add((page, number))
        language, text = blocks(page)[number]
        for said, done in (changes or {}).items():
            assert said in text, f"{page}, block {number}, has no {said}"
            text = text.replace(said, done)
        return self.do(before + text, language)

    def do(self, text: str, language: str = "sh") -> str:
        """Run lines of shell or Python; a command that fails ends the test with what it said."""
        command = ["bash", "-e", "-o", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
        installed = Path(sys.executable).parent
        environment = {
            **os.environ,
            "PATH": f"{self.programs}:{installed}:{os.environ['PATH']}",
            "SCOREONCE_CACHE": str(self.path / "cache"),
            **self.environment,
        }
        done = subprocess.run(
            [*command, text], cwd=self.path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout + done.stderr


def user_folder(path: Path) -> Folder:
    """Models, pairs and run files by the names that the pages use; nothing is prepared."""
    (path / "made").mkdir()
    (path / "models").mkdir()
    run = text_run(path / "made")
    Path(run.reference.model).rename(path / "models" / "sft")
    for name in ("models/my-sft", "org/other"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).symlink_to(path / "models" / "sft")
    reward_model(path / "models" / "reward")
    rows = [{"prompt": f"What is {n}?", "chosen": f" it is {n}", "rejected": " no" + "!" * (n % 5)} for n in range(24)]
    (path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Why {n}?"}) + "\n" for n in range(3)))
    for name in ("RUN.toml", "run.toml", "configs/mine.toml"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(RUN_FILE)
    return Folder(path)
