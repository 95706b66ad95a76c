"""The recipe of docs/compare.md runs as it stands, with a tiny model."""

import json
import re
from pathlib import Path

import pytest
from text_runs import text_run

from scoreonce.stages import cli

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "compare.md").read_text(encoding="utf-8")
EXAMPLE = "dpo-learning_rate5e-07-s0"  # the page's name for what was recommended
# So that it is small, and the rows of the tiny model's data end up in both splits.
SMALL = {
    "init": ("compare.seeds=1", "train.batch_pairs=4", "data.test_share=0.4", "sample.max_new_tokens=6"),
}


@pytest.mark.long
def test_the_recipe_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("made").mkdir()
    Path("models").mkdir()
    run = text_run(tmp_path / "made")
    Path(run.reference.model).rename("models/my-sft")
    rows = ({"prompt": f"What is {n}?", "chosen": f" it is {n}", "rejected": " no"} for n in range(24))
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = PAGE.partition("## The best of four methods")[2].partition("\n## ")[0]
    (rule,) = re.findall(r"^```python\n(.*?)^```", recipe, re.DOTALL | re.MULTILINE)
    Path("rule.py").write_text(rule)
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", recipe, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    assert len(lines) == 12
    label = None
    for line in lines:
        words = line.split()
        more = [part for value in SMALL.get(words[1], ()) for part in ("--set", value)]
        assert cli.run_command([*(label if word == EXAMPLE else word for word in words[1:]), *more]) == 0, line
        if words[1:] == ["compare", "four.toml"]:
            (label,) = re.findall(r"--label (\S+)$", capsys.readouterr().out, re.MULTILINE)
    document = json.loads(Path("runs/four/compare/compare.json").read_text())
    assert len(document["candidates"]) == 12
    policy = Path("runs/four/train") / label / "model"
    assert (policy / "config.json").is_file()
