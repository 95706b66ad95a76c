"""Further models that score the same completions: their columns in conditions, method files and TIS-DPO's weights."""

import json
import math

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from scoreonce.pipeline import methods
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.methods.papers.tis_dpo import token_weights
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import ReferenceManifest
from scoreonce.stages import config
from scoreonce.stages.commands import sql
from scoreonce.stages.common import manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.reference_scores import require_other
from scoreonce.stages.score import stage as score
from scoreonce.stages.store.store import ReferenceStore
from scoreonce.stages.train import stage as train
from scoreonce.stages.train.data import load_training_data
from scoreonce.stages.train.reference_logits import cached_tokens

FAST = {"learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 3}
TEACHER = """
from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.dpo import dpo
from scoreonce.pipeline.methods.pieces.registry import calibration


@calibration("target_margin", batch_coupled=False)
def teacher_margin(teacher_chosen_logps, teacher_rejected_logps, *, teacher_share: float = 0.1):
    '''A share of the teacher's margin.'''
    return teacher_share * (teacher_chosen_logps - teacher_rejected_logps)


paper = Paper("None", "", "")
method("from_teacher", "DPO with a teacher's margin", paper=paper, objective=dpo, calibration=teacher_margin)
"""


def run_of(world, other, **train_settings):
    """A run whose further models are tiny ones of these seeds."""
    models = {name: {"model": str(world.model(name, seed=seed))} for name, seed in other.items()}
    return world.run(reference={"other": models}, train={**FAST, **train_settings})


@pytest.fixture(scope="module")
def prepared(shared_world):
    """24 training pairs and 8 held-out ones, scored by the reference and by `plus`, `minus` and `teacher`."""
    shared_world.prepare(shared_world.random_pairs(24), shared_world.random_pairs(8, seed=1))
    score.score(run_of(shared_world, ALL))
    return shared_world


ALL = {"plus": 1, "minus": 2, "teacher": 3}


def trained(world, label, other=ALL, **settings):
    run = run_of(world, other, label=label, **settings)
    train.train(run, allow_method_file=True)
    return RunPaths.of(run)


def weights(paths):
    return load_file(paths.policy / "model.safetensors")


def first_metrics(paths):
    return json.loads((paths.training / "metrics.jsonl").read_text().splitlines()[0])


def table(paths, split="train"):
    return pl.read_parquet(paths.reference(split))


def test_score_scores_each_model_once_under_its_own_key(prepared, capsys):
    run = run_of(prepared, ALL)
    paths = RunPaths.of(run)
    own = [manifests.read(ReferenceManifest, paths.of_other(name).reference_manifest) for name in ALL]
    keys = {manifest.store_key for manifest in own} | {ReferenceStore.of(run, run.reference).identity.key}
    assert len(keys) == 4
    assert table(paths.of_other("plus")).height == 24
    assert table(paths.of_other("plus"), "test").height == 8
    assert not table(paths)["ref_margin"].equals(table(paths.of_other("plus"))["ref_margin"])
    assert score.score(run).scored == 0
    alone = prepared.run(reference={"model": str(prepared.model("plus", seed=1))}, score={"store": str(paths.store)})
    assert score.score(alone).scored == 0, "the same store, found by the model's weights"
    score.score(run)


def test_parts_of_the_completions_are_scored_under_each_model(prepared):
    """In a store of its own; the last part writes the tables of each model, which are those of one process."""
    whole = run_of(prepared, {"plus": 1})
    parts = whole.replace({"score.store": str(prepared.folder / "parts")})
    table_of = RunPaths.of(parts).of_other("plus")
    expected = table(table_of)
    table_of.reference_manifest.unlink()
    first = score.score(parts, part="1/2")
    assert first.missing > 0
    assert not table_of.reference_manifest.exists()
    assert score.score(parts, part="2/2").missing == 0
    columns = ["ref_chosen_logps", "ref_rejected_logps"]
    assert_frame_equal(table(table_of).select("pair_id", *columns), expected.select("pair_id", *columns), abs_tol=1e-4)
    score.score(run_of(prepared, ALL))


def test_columns_of_a_further_model_select_pairs(prepared):
    """train.where sees NAME_chosen_logps, NAME_rejected_logps and NAME_margin."""
    paths = trained(prepared, "where", where="plus_margin > ref_margin and teacher_chosen_logps < 0")
    both = table(paths), table(paths.of_other("plus"))
    expected = (both[1]["ref_margin"] > both[0]["ref_margin"]).sum()
    assert 0 < expected < 24
    assert json.loads(paths.lineage.read_text())["data"]["pairs"] == expected


def test_sql_offers_them(prepared):
    """Of all pairs; both splits stand beside each other."""
    run = run_of(prepared, ALL)
    paths = RunPaths.of(run)
    expected = sum(table(paths.of_other("plus"), split)["ref_margin"].sum() for split in ("train", "test"))
    columns = "count(plus_margin) AS n, round(sum(plus_margin), 3) AS margin, count(teacher_chosen_logps) AS teacher"
    assert sql.answer(run, f"SELECT {columns} FROM pairs").splitlines()[1].split() == ["32", f"{expected:.3f}", "32"]


@pytest.mark.usefixtures("forgets_methods")
def test_a_method_file_may_read_them(prepared, tmp_path):
    path = tmp_path / "teacher.py"
    path.write_text(TEACHER)
    paths = trained(prepared, "file", method="from_teacher", method_file=str(path), teacher_share=0.5)
    steps = pl.read_parquet(paths.training / "steps.parquet").filter(pl.col("step") == 1)
    teacher = table(paths.of_other("teacher")).select("pair_id", "ref_margin")
    joined = steps.join(teacher, on="pair_id")
    assert joined["target_margin"].to_list() == pytest.approx((0.5 * joined["ref_margin"]).to_list())
    assert list(json.loads(paths.lineage.read_text())["train"]["other"]) == ["teacher"]


@pytest.mark.slow
def test_tis_dpo(prepared):
    """Log 2 at first; weights that are all 1 are DPO; a held-out loss; the scores it used are in the lineage."""
    plain = weights(trained(prepared, "plain", method="dpo"))
    ones = trained(prepared, "ones", method="tis_dpo", weight_least=1, weight_most=1, last_token="weighted")
    for name, tensor in weights(ones).items():
        torch.testing.assert_close(tensor, plain[name], rtol=2e-5, atol=2e-5)
    ranked = trained(prepared, "ranked", method="tis_dpo")
    assert first_metrics(ranked)["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert max((weights(ranked)[name] - plain[name]).abs().max() for name in plain) > 1e-4
    assert list(json.loads(ranked.lineage.read_text())["train"]["other"]) == ["minus", "plus"]


def test_the_first_gradient_of_tis_dpo_is_that_of_its_weights(prepared):
    """After one step of SGD the weights have moved by the gradient: twice the weights of tokens, twice the way."""
    settings = {"method": "tis_dpo", "optimizer": "sgd", "scheduler": "constant", "warmup_ratio": 0, "max_steps": 1}
    moved = []
    for most in (1.0, 2.0):
        alike = {"weight_least": most, "weight_most": most, "token_weighting": "scale", "max_grad_norm": 0}
        after = weights(trained(prepared, f"sgd-{most}", **settings, **alike))
        before = load_file(prepared.model() / "model.safetensors")
        moved.append({name: after[name] - before[name] for name in after})
    name = "model.layers.1.mlp.down_proj.weight"
    torch.testing.assert_close(moved[1][name], 2 * moved[0][name], rtol=1e-2, atol=1e-7)


def test_cached_tokens_are_those_of_the_models(prepared):
    """Each model's own forward pass on some rows, in another order than that of the store."""
    run = run_of(prepared, ALL)
    method = methods.resolve("tis_dpo", {})
    data = load_training_data(RunPaths.of(run), method.reads)
    rows = [data.row(pair) for pair in (7, 0, 3)]
    found = cached_tokens(run, method, torch.device("cpu"))(rows)
    own = {}
    for name in ("model", "plus", "minus"):
        with torch.no_grad():
            own[name] = TokenScorer(LlamaForCausalLM.from_pretrained(prepared.model(name)).eval(), "padded")(rows)
    torch.testing.assert_close(found.reference_logps, own["model"].token_logps, rtol=0, atol=1e-5)
    ratios = (own["plus"].token_logps - own["minus"].token_logps).split(own["plus"].lengths.tolist())
    settings = {"form": "rank", "least": 0.7, "most": 1.3, "last_token": "zero"}
    expected = [token_weights(each, chosen=number % 2 == 0, **settings) for number, each in enumerate(ratios)]
    torch.testing.assert_close(found.weights, torch.cat(expected), rtol=0, atol=1e-5)


def test_a_held_out_loss_of_tis_dpo(prepared):
    run = run_of(prepared, ALL, method="tis_dpo", label="watched")
    train.train(run.replace({"evaluate.every": 1}))
    assert "eval/loss" in first_metrics(RunPaths.of(run))


def test_what_is_lacking_is_said(prepared):
    with pytest.raises(InputError, match="names none of that name") as raised:
        trained(prepared, "lacks", other={"plus": 1}, method="tis_dpo")
    assert "[reference.other.minus]" in raised.value.fix
    swapped = run_of(prepared, ALL, method="tis_dpo").replace(
        {"reference.other.minus.model": str(prepared.model("plus"))}
    )
    with pytest.raises(InputError, match="scored under another reference"):
        train.train(swapped)
    with pytest.raises(InputError, match="no reference scores") as raised:
        require_other(run_of(prepared, {"more": 5}), "more", "a method")
    assert "scoreonce score" in raised.value.fix


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"Plus": {"model": "m"}}, "cannot begin the names of columns"),
        ({"ref_b": {"model": "m"}}, "cannot begin the names of columns"),
        ({"plus": {"model": "m", "other": {"b": {"model": "n"}}}}, "further models of its own"),
        ({"plus": {"mdoel": "m"}}, "reference.other.plus"),
    ],
)
def test_names_that_cannot_be(other, message):
    tree = {"out": "o", "data": {"source": "d"}, "reference": {"model": "m", "other": other}}
    with pytest.raises(InputError, match=message):
        config.checked(tree, "a run file")


@pytest.mark.parametrize(
    ("form", "chosen", "expected"),
    [
        ("rank", True, [1.15, 0.85, 1.3, 1.0, 0.7]),
        ("rank", False, [0.85, 1.15, 0.7, 1.0, 1.3]),
        ("scale", True, [1.18, 0.94, 1.3, 1.04, 0.86]),
        ("exp", True, [math.exp(0.9), math.exp(-0.3), math.exp(1.5), math.exp(0.2), math.exp(-0.5)]),
        ("exp", False, [math.exp(-0.9), math.exp(0.3), math.exp(-1.5), math.exp(-0.2), math.exp(0.5)]),
    ],
)
def test_token_weights(form, chosen, expected):
    """Scores 0.9, -0.3, 1.8, 0.2, -0.7: ranks 3, 1, 4, 2, 0 of 0 to 4; scale: 1 + 0.2 s, at most 1.3."""
    ratios = torch.tensor([0.9, -0.3, 1.8, 0.2, -0.7], dtype=torch.float64)
    settings = {"chosen": chosen, "form": form, "least": 0.7, "most": 1.3}
    weighted = token_weights(ratios, **settings, last_token="weighted")
    assert weighted.tolist() == pytest.approx(expected)
    longer = token_weights(torch.cat([ratios, torch.tensor([9.0])]), **settings, last_token="zero")
    assert longer.tolist() == pytest.approx([*expected, 0])


def test_token_weights_of_ties_and_of_few_tokens():
    """0.104 and 0.096 are both 0.10: mean rank 0.5 of 0 to 2. One token: 1; EOS alone: 0."""
    settings = {"chosen": True, "form": "rank", "least": 0.7, "most": 1.3}
    ratios = torch.tensor([0.104, 0.096, 2.0])
    assert token_weights(ratios, **settings, last_token="weighted").tolist() == pytest.approx([0.85, 0.85, 1.3])
    assert token_weights(ratios[:1], **settings, last_token="weighted").tolist() == [1.0]
    assert token_weights(ratios[:1], **settings, last_token="zero").tolist() == [0.0]
