"""What was said of a policy counts for that policy, and not for another that was trained under its label since."""

import json

import pytest
from sample_tables import sample_rows, write_samples
from written import lineage

from scoreonce.stages.common import manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data.samples import demo_entries, judgement_records
from scoreonce.stages.judge.stage import judge

ONE, OTHER = "1" * 64, "2" * 64


@pytest.fixture
def run(tmp_path):
    (tmp_path / "judge.py").write_text("def score(prompt, completion):\n    return len(completion)\n")
    return Run.model_validate(
        {
            "out": str(tmp_path / "out"),
            "data": {"source": "pairs.jsonl"},
            "reference": {"model": "reference"},
            "judge": {"function": f"{tmp_path / 'judge.py'}:score"},
        }
    )


def trained(run, label, identity):
    paths = RunPaths.of(run)
    manifests.write(paths.out / "train" / label / "lineage.json", lineage(label, identity=identity))


def test_a_judgement_is_of_the_policy_that_wrote_the_samples(run, caplog):
    paths = RunPaths.of(run)
    write_samples(paths, "reference", sample_rows({"p": ["bb"]}))
    write_samples(paths, "dpo", sample_rows({"p": ["a"]}), training_identity=ONE)
    judge(run, label="dpo", against="reference", allow_judge_function=True)
    assert len(judgement_records(paths, ["dpo"])) == 1  # a policy of elsewhere has no lineage here
    trained(run, "dpo", ONE)
    assert len(judgement_records(paths, ["dpo"])) == 1
    trained(run, "dpo", OTHER)
    assert judgement_records(paths, ["dpo"]) == ()
    assert "dpo was trained again since it was judged" in caplog.text


def test_a_true_reward_is_of_the_policy_that_was_judged(run):
    paths = RunPaths.of(run)
    for label in ("dpo", "ipo", "old"):
        trained(run, label, ONE)
    entries = [
        {"label": "reference"},
        {"label": "dpo", "training_identity": ONE},
        {"label": "ipo", "training_identity": OTHER},
        {"label": "old"},  # of a version that kept no identity
    ]
    (paths.out / "demo.json").write_text(json.dumps({"policies": entries}))
    found = demo_entries(paths, ["dpo", "ipo", "old"])
    assert [entry["label"] for entry in found] == ["reference", "dpo", "old"]
