"""Verdicts of real tiny runs: in the terminal, in verdict.json, on the page."""

import json

import numpy as np
import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import AuditManifest, EvaluationManifest, Lineage
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import read_json, sha256, write_json
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.report import stage as report
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import stage as train
from scoreonce.stages.verdict.gather import after_evaluation, after_training

STEADY = {"scheduler": "constant", "warmup_ratio": 0.0, "batch_pairs": 8}
FAST = {**STEADY, "learning_rate": 1e-3, "max_steps": 12}


@pytest.fixture(scope="module")
def prepared(shared_world):
    """40 training and 40 held-out pairs, scored with embeddings. All chosen sides end in 2, rejected ones in 3."""
    world = shared_world
    world.prepare(world.random_pairs(40), world.random_pairs(40, seed=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCOREONCE_CACHE", str(world.folder / "cache"))
        score.score(world.run(score={"embeddings": True}))
    return world


def trained(world, label, settings, **sections):
    run = world.run(train={**settings, "label": label}, **sections)
    return run, train.train(run)


def on_page(run):
    report.report(run, labels=[run.train.label])
    return " ".join(RunPaths.of(run).report.read_text(encoding="utf-8").split())


def words(text):
    return " ".join(text.split())


def test_a_run_that_did_nothing(prepared, capsys):
    """A learning rate of 1e-12 moves no float32 weight by enough: said by `train`, by `evaluate` and on the page."""
    run, _ = trained(prepared, "still", {**FAST, "learning_rate": 1e-12})
    said = words(capsys.readouterr().out)
    assert "Did nothing. After 12 steps at a learning rate of 1.0e\N{MINUS SIGN}12, the median training pair's" in said
    found = evaluate.evaluate(run)
    assert found.verdict["state"] == "did_nothing"
    assert [each["name"] for each in found.verdict["findings"]] == ["did_nothing"]
    assert "the median held-out pair's margin" in words(capsys.readouterr().out)
    page = on_page(run)
    assert "did nothing" in page
    assert "raise train.learning_rate" in page
    assert "lower train.learning_rate" not in page


def test_a_run_that_learnt(prepared, capsys):
    """The ending tells chosen from rejected in training and in held-out pairs alike."""
    run, _ = trained(prepared, "learnt", FAST)
    assert "Not judged yet. The median training pair's margin moved by" in words(capsys.readouterr().out)
    found = evaluate.evaluate(run)
    document = found.verdict
    assert document["state"] == "learnt"
    assert document["findings"][0]["numbers"]["accuracy"] == found.summary["accuracy"] > 0.6
    assert document["paragraph"] in words(capsys.readouterr().out)
    manifest = manifests.read(EvaluationManifest, found.paths.evaluation_summary)
    assert manifest.files["verdict.json"] == sha256(found.paths.evaluation_verdict)
    assert document["headline"] in on_page(run)
    again = evaluate.evaluate(run)  # nothing is scored again, and the verdict is the same
    assert again.verdict == document
    # What its samples are worth leads, in the report at once, and in the next evaluation.
    rewards = {"reference": (2.0, 1.9, 2.1), "learnt": (1.0, 0.9, 1.1)}
    names = ("true_reward_mean", "true_reward_low", "true_reward_high")
    policies = [
        {"label": label, "kl_mean": 1.0, **dict(zip(names, each, strict=True))} for label, each in rewards.items()
    ]
    (found.paths.out / "demo.json").write_text(json.dumps({"policies": policies}))
    assert "worse than the reference (true reward)" in on_page(run)
    assert evaluate.evaluate(run).verdict["state"] == "worse"


@pytest.fixture
def noise(world):
    """24 training and 200 held-out pairs whose labels are drawn at random: nothing can be learnt of them."""
    random = np.random.default_rng(0)

    def shuffled(pairs):
        return [(p, r, c) if random.random() < 0.5 else (p, c, r) for p, c, r in pairs]

    world.prepare(shuffled(world.random_pairs(24)), shuffled(world.random_pairs(200, seed=1)))
    score.score(world.run())
    return world


def test_a_run_that_memorised(noise, capsys):
    """The training loss falls, the held-out loss rises: `train` says since when, and so does `evaluate`."""
    settings = {**STEADY, "learning_rate": 3e-3, "max_steps": 20, "beta": 1.0}
    run, result = trained(noise, "memorised", settings, evaluate={"every": 5})
    losses = result.held_out()["pair_losses"]
    assert losses.list.mean().to_list() == pytest.approx(result.held_out()["loss"].to_list(), rel=1e-5)
    lowest = int(result.held_out().sort("loss")["step"][0])
    assert f"Memorised since step {lowest}." in words(capsys.readouterr().out)
    document = evaluate.evaluate(run).verdict
    assert document["state"] == "memorised"
    assert document["findings"][0]["numbers"]["step"] == lowest
    keys = {advice["key"] for finding in document["findings"] for advice in finding["advice"]}
    assert "train.learning_rate" not in keys
    assert {"evaluate.policy", "train.epochs"} <= keys


def test_the_model_of_the_best_step_is_judged_by_it(noise):
    """Figures after the step whose weights were written say nothing of them."""
    settings = {**STEADY, "learning_rate": 3e-3, "max_steps": 15, "beta": 0.5}
    run, result = trained(noise, "best", settings, evaluate={"every": 5, "policy": "best"})
    chosen = manifests.read(Lineage, result.paths.lineage).held_out.policy_step
    rise = after_training(result.paths).training.rise
    assert rise is None or rise.step <= chosen
    assert evaluate.evaluate(run).verdict["state"] != "memorised"


def test_facts_of_embeddings_name_training_pairs(prepared):
    run, result = trained(prepared, "embeddings", {**FAST, "max_steps": 2})
    found = evaluate.evaluate(run)
    ches = after_evaluation(found.paths, result.paths, found.pairs(), found.summary).held_out.ches
    scores = {row["pair_id"]: row["ref_ln_ches"] for row in read_frame(found.paths.reference("train")).to_dicts()}
    highest = sorted(scores.values(), reverse=True)[:3]
    assert [driver.ches for driver in ches.drivers] == highest
    rows = {row["pair_id"]: row["row"] for row in read_frame(found.paths.pairs("train")).to_dicts()}
    assert all(rows[driver.pair_id] == driver.row for driver in ches.drivers)


def test_the_condition_that_is_advised_leaves_out_the_most_similar_twentieth(prepared, capsys):
    """Of 40 distinct pairs the quantile 0.95 is between the second and the third highest: 2 are left out."""
    scores = read_frame(RunPaths.of(prepared.run()).reference("train"))["ref_ln_ches"]
    where = f"ref_ln_ches < {scores.quantile(0.95, 'linear')}"
    trained(prepared, "similar", {**FAST, "max_steps": 1, "where": where})
    assert "on 38 pairs" in words(capsys.readouterr().out)


def write_audit(paths, judgements, **changes):
    manifest = {
        "pairs_manifest_sha256": sha256(paths.pairs_manifest),
        "reference_manifest_sha256": None,
        "settings": {},
        "files": {},
    }
    manifest = AuditManifest(**(manifest | changes)).model_dump(mode="json")
    write_json(paths.audit_summary, {"manifest": manifest, "judgements": judgements})


JUDGED = {
    "pairs": 50,
    "flip_rate": 0.2,
    "flip_rate_low": 0.1,
    "flip_rate_high": 0.3,
    "suggested_label_smoothing": 0.2,
}


def test_the_ceiling_is_that_of_the_audit_of_these_pairs(prepared):
    run, _ = trained(prepared, "noisy", {**FAST, "max_steps": 4})
    paths = RunPaths.of(run)
    paths.audit.mkdir()
    try:
        write_audit(paths, JUDGED)
        found = {each["name"]: each for each in evaluate.evaluate(run).verdict["findings"]}
        assert found["noise_ceiling"]["numbers"]["ceiling"] == pytest.approx(0.8)
        write_audit(paths, JUDGED, pairs_manifest_sha256="0" * 64)
        assert "noise_ceiling" not in str(evaluate.evaluate(run).verdict)
    finally:
        paths.audit_summary.unlink()


def test_a_damaged_log_is_left_out_of_the_verdict_and_said(prepared, capsys):
    run, result = trained(prepared, "damaged", {**FAST, "max_steps": 4})
    (result.paths.training / "metrics.jsonl").write_text("{}\n")
    capsys.readouterr()
    found = evaluate.evaluate(run)
    assert "The verdict leaves out what cannot be read." in capsys.readouterr().err
    assert found.verdict["state"] in ("learnt", "undecided")


def test_an_evaluation_by_an_earlier_version_is_read_and_judged_by_the_report(prepared):
    """Its summary vouches for the table alone."""
    run, _ = trained(prepared, "old", {**FAST, "learning_rate": 1e-12, "max_steps": 4})
    paths = evaluate.evaluate(run).paths
    summary = manifests.read(EvaluationManifest, paths.evaluation_summary)
    table = {"pairs.parquet": summary.files["pairs.parquet"]}
    manifests.write(paths.evaluation_summary, summary.model_copy(update={"files": table}))
    paths.evaluation_verdict.unlink()
    assert "did nothing" in on_page(run)


def test_a_damaged_verdict_is_refused_by_the_report(prepared):
    run, _ = trained(prepared, "bits", {**FAST, "max_steps": 2})
    paths = evaluate.evaluate(run).paths
    document = read_json(paths.evaluation_verdict)
    paths.evaluation_verdict.write_text(json.dumps(document | {"state": "learnt!"}))
    with pytest.raises(InputError, match=r"(?s)evaluation.*verdict\.json.*scoreonce evaluate"):
        report.report(run, labels=["bits"])
