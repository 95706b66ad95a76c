"""The recipes of docs/iterate.md run as they stand, with a tiny model."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from chat_tokenizers import CHATML
from judged_samples import reward_model
from text_runs import text_run

from scoreonce.schemas.manifests import Lineage
from scoreonce.stages import cli
from scoreonce.stages.common import manifests

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "iterate.md").read_text(encoding="utf-8")
QUESTIONS = [f"What is {number} and {number}?" for number in range(6)]


# So that it is small; the tiny model seldom ends by itself.
SMALL = {
    "sample": ("sample.max_new_tokens=8",),
    "pairs": ("pairs.finished_only=false",),
    "train": ("train.learning_rate=0.01", "train.batch_pairs=3"),
}


def do(lines: list[str]) -> None:
    """The lines of a block of shell commands."""
    for line in lines:
        words = line.split()
        small = [part for value in SMALL.get(words[1], ()) for part in ("--set", value)]
        assert cli.run_command([*words[1:], *small]) == 0, line


def lineage(out: str) -> Lineage:
    return manifests.read(Lineage, Path(out) / "train" / "dpo" / "lineage.json")


@pytest.mark.long
def test_the_recipes_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("made", "models", "data"):
        Path(folder).mkdir()
    run = text_run(tmp_path / "made", template=CHATML)
    Path(run.reference.model).rename("models/sft")
    reward_model(Path("models/reward"))
    Path("data/prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": [{"role": "user", "content": each}]}) + "\n" for each in QUESTIONS)
    )
    for text in re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        name = text.splitlines()[0].removeprefix("# ")
        Path(name).write_text(text.replace("[data]\n", "[data]\ntest_share = 0\nmax_length = 128\n"))
    blocks = [block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]
    assert len(blocks) == 5
    for block in blocks:
        do(block)

    first, second, kept, guided = map(lineage, ("runs/round1", "runs/round2", "runs/kept", "runs/guided"))
    sft, tuned = first.policy.weights, second.policy.weights
    assert sft != tuned
    reference = {"round1": first, "round2": second, "kept": kept, "guided": guided}
    assert {name: each.reference.weights for name, each in reference.items()} == {
        "round1": sft,
        "round2": tuned,
        "kept": sft,
        "guided": tuned,
    }
    assert (kept.policy.weights, guided.policy.weights) == (tuned, sft)
    # Both rounds trained on other completions of the same prompts; Pre-DPO on the pairs of round 1.
    pairs = {name: pl.read_parquet(f"runs/{name}/pairs/train.parquet", glob=False) for name in reference}
    assert set(pairs["round1"]["prompt_id"]) >= set(pairs["guided"]["prompt_id"])
    assert pairs["round1"]["pair_id"].to_list() == pairs["guided"]["pair_id"].to_list()
    assert pairs["round2"]["pair_id"].to_list() == pairs["kept"]["pair_id"].to_list()
    assert not set(pairs["round1"]["pair_id"]) & set(pairs["round2"]["pair_id"])
    printed = capsys.readouterr()
    assert "round2 against the reference" in printed.out + printed.err
