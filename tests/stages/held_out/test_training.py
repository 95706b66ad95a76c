"""Held-out figures while training: what they are, what they leave alone, and what follows from them."""

import json
import math

import polars as pl
import pytest
import torch
from killed_training import dying, dying_before, dying_in_update
from safetensors.torch import load_file

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage
from scoreonce.schemas.tables import HeldOutStep
from scoreonce.stages.common import manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.models.named_policy import policy_of
from scoreonce.stages.report import stage as report
from scoreonce.stages.score import stage as score
from scoreonce.stages.store.store import ReferenceStore
from scoreonce.stages.train import stage as train

FAST = {"learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 4, "checkpoint_every": 2}
# The held-out loss rises from the first step on.
WORSENS = {**FAST, "max_steps": 8, "scheduler": "constant", "warmup_ratio": 0.0, "beta": 1.0}


@pytest.fixture(scope="module")
def prepared(shared_world):
    """For all tests, each with labels of its own: a world of 40 training and 12 held-out pairs, scored.

    What ends chosen training completions ends rejected ones that are held out, so that training makes held-out figures
    worse.
    """
    world = shared_world
    world.prepare(world.random_pairs(40), [(p, r, c) for p, c, r in world.random_pairs(12, seed=1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCOREONCE_CACHE", str(world.folder / "cache"))
        score.score(world.run(score={"mismatched": True, "full_vocab": "hidden"}))
    return world


def trained(world, label, settings=FAST, evaluated=None, **more):
    run = world.run(train={**settings, "label": label, **more}, evaluate={"every": 2, **(evaluated or {})})
    return run, train.train(run)


def rows(result):
    """The table without what depends on the clock."""
    return result.held_out().drop("seconds").to_dicts()


def weights(result):
    return load_file(result.model / "model.safetensors")


def metrics(result):
    lines = (result.paths.training / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if "perf/" not in name} for line in lines]


def choice(result):
    return manifests.read(Lineage, result.paths.lineage).held_out


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=0, atol=0)


def test_figures_are_those_of_evaluate_and_the_loss_is_the_methods(prepared):
    """Of all 12 pairs after the last step; DPO's loss is the mean of log(1 + exp(-beta margin))."""
    run, result = trained(prepared, "figures")
    HeldOutStep.validate(result.held_out())
    start, _, last = result.held_out().to_dicts()
    assert [start["step"], last["step"], last["pairs"]] == [0, 4, 12]
    found = evaluate.evaluate(run)
    for name in ("accuracy", "margin", "cross_entropy_increase"):
        assert last[name] == pytest.approx(found.summary[name], abs=1e-5)
    pairs = found.pairs()
    assert last["loss"] == pytest.approx((1 + (-0.1 * pairs["margin"]).exp()).log().mean(), abs=1e-6)
    for side in ("chosen", "rejected"):
        expected = pairs[f"{side}_logratios"].sum() / pairs[f"{side}_len"].sum()
        assert last[f"{side}_logratio_per_token"] == pytest.approx(expected, abs=1e-6)
    store = ReferenceStore.of(run, policy_of(run, result.paths, None))
    ids = pl.read_parquet(result.paths.pairs("test"))
    scores = store.read(pl.concat([ids["chosen_id"], ids["rejected_id"]]), ["entropy", "completion_len"])
    expected = scores["entropy"].sum() / scores["completion_len"].sum()
    assert last["entropy_per_token"] == pytest.approx(expected, abs=1e-5)
    line = metrics(result)[3]
    assert line["eval/loss"] == last["loss"]
    assert line["eval/accuracy"] == last["accuracy"]
    assert line["eval/kl"] == last["cross_entropy_increase"]
    assert line["eval/rewards/margins"] == pytest.approx(0.1 * last["margin"])
    assert line["eval/logps/chosen"] == pytest.approx(pairs["policy_chosen_logps"].mean(), abs=1e-4)
    assert not any(name.startswith("eval/") for name in metrics(result)[2])


def test_before_the_first_step_the_policy_is_the_reference(prepared, capsys):
    start = trained(prepared, "start", max_steps=1)[1].held_out().to_dicts()[0]
    assert start["loss"] == pytest.approx(math.log(2), abs=1e-5)
    for name in ("margin", "chosen_logratio_per_token", "rejected_logratio_per_token", "cross_entropy_increase"):
        assert start[name] == pytest.approx(0, abs=1e-4)
    assert "figures of 12 of 12 held-out pairs after every 2 steps; the first took" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["beta_dpo", pytest.param("dpo", marks=pytest.mark.long)])
def test_evaluating_leaves_the_training_alone(prepared, method):
    """beta_dpo has a state that moves, and draws at random which pairs it keeps."""
    plain = train.train(prepared.run(train={**FAST, "method": method, "label": f"plain-{method}"}))
    watched = trained(prepared, f"watched-{method}", method=method, evaluated={"every": 1})[1]
    assert_equal(weights(plain), weights(watched))
    kept = [{name: line[name] for name in line if not name.startswith("eval/")} for line in metrics(watched)]
    assert kept == metrics(plain)
    assert plain.held_out().is_empty()
    assert choice(plain) is None


@pytest.mark.parametrize("method", ["kto", "epsilon_dpo", "simpo", "sft"])
def test_methods_that_read_more_or_less_than_log_probs(prepared, method):
    """KTO another prompt's completion, epsilon-DPO hidden states; SimPO no reference, SFT no rejected side.

    The held-out pairs have no other prompt's completion, and so no loss of KTO.
    """
    found = trained(prepared, method, method=method, max_steps=2)[1].held_out()
    assert found["accuracy"].null_count() == 0
    if method == "kto":
        assert found["loss"].null_count() == found.height == 2
        error = expect(prepared, "loss of kto is not computed", {**FAST, "method": "kto"}, every=2, patience=1)
        assert '"accuracy"' in error.fix
    else:
        assert found["loss"].is_finite().all()
        assert found["loss"].n_unique() == 2


def test_the_sample_is_drawn_once_and_does_not_depend_on_the_training(prepared):
    small = {"pairs": 5}
    one, other = (trained(prepared, f"s{seed}", seed=seed, max_steps=2, evaluated=small)[1] for seed in (0, 1))
    assert rows(one)[0] == rows(other)[0]
    assert rows(one)[0]["pairs"] == 5
    assert rows(one)[1] != rows(other)[1]


def test_a_share_of_an_epoch(prepared):
    """40 pairs in batches of 8 are 5 steps; 0.4 of them 2. The last step is always evaluated."""
    assert [row["step"] for row in rows(trained(prepared, "share", max_steps=5, evaluated={"every": 0.4})[1])] == [
        0,
        2,
        4,
        5,
    ]


def test_best_and_last(prepared):
    """The best weights are those of their checkpoint, which outlives the others, and evaluate as they did."""
    best_of = {"policy": "best"}
    run, best = trained(prepared, "best", WORSENS, best_of, keep_checkpoints=1, checkpoint_every=8)
    _, last = trained(prepared, "last", WORSENS)
    assert rows(best) == rows(last)
    found = choice(best)
    at = found.best_step
    assert at == 2
    assert found.model_dump(exclude={"best"}) == {
        "metric": "loss",
        "best_step": at,
        "last_step": 8,
        "planned_steps": 8,
        "stopped": "all steps done",
        "policy_step": at,
    }
    assert choice(last) == found.model_copy(update={"policy_step": 8})
    kept = sorted(path.name for path in (best.paths.training / "checkpoints").iterdir())
    assert kept == ["step-000002", "step-000008"]
    masters = load_file(best.paths.training / "checkpoints" / kept[0] / "weights.safetensors")
    written = weights(best)
    assert all(torch.equal(masters[f"model.{name}"], written[name]) for name in written)
    assert any(not torch.equal(tensor, weights(last)[name]) for name, tensor in written.items())
    row = next(row for row in rows(best) if row["step"] == at)
    assert evaluate.evaluate(run).summary["margin"] == pytest.approx(row["margin"], abs=1e-5)
    assert f'best_step": {at}' in (best.model / "README.md").read_text()
    report.report(run, labels=["best"])
    page = run_page(run)
    assert "Held-out figures while training" in page
    assert f"{at} <small>best by loss, the model</small>" in page


def run_page(run):
    return RunPaths.of(run).report.read_text(encoding="utf-8")


def test_patience_ends_a_run_that_is_then_finished(prepared, capsys):
    impatient = {"patience": 2}
    run, result = trained(prepared, "impatient", WORSENS, impatient)
    found, steps = choice(result), [row["step"] for row in rows(result)]
    assert found.stopped == "patience"
    assert (found.best_step, found.last_step, found.policy_step, steps) == (2, 6, 6, [0, 2, 4, 6])
    assert result.steps_done == len(metrics(result)) == found.last_step
    said = capsys.readouterr().out
    assert f"stopped after step {found.last_step} of 8: held-out loss was not better in 2 evaluations" in said
    assert "% of the time" in said
    assert train.train(run).steps_done == 0
    assert "up to date" in capsys.readouterr().out
    with pytest.raises(InputError, match="Another training run") as raised:
        trained(prepared, "impatient", WORSENS, {"patience": 3})
    assert raised.value.found.strip() == "train.evaluate.patience: trained with 2, now 3"


@pytest.mark.parametrize(
    "killed_in_step", [4, pytest.param(1, marks=pytest.mark.long), pytest.param(6, marks=pytest.mark.long)]
)
def test_killed_and_resumed_has_the_same_rows_once_and_the_same_policy(prepared, killed_in_step):
    settings = {"policy": "best", "patience": 2}
    whole = trained(prepared, "whole", WORSENS, settings, keep_checkpoints=1, checkpoint_every=3)[1]
    assert (choice(whole).policy_step, choice(whole).last_step) == (2, 6)
    with dying_in_update(killed_in_step):
        trained(prepared, f"killed-{killed_in_step}", WORSENS, settings, keep_checkpoints=1, checkpoint_every=3)
    resumed = trained(prepared, f"killed-{killed_in_step}", WORSENS, settings, keep_checkpoints=1, checkpoint_every=3)[
        1
    ]
    assert rows(whole) == rows(resumed)
    assert choice(whole) == choice(resumed)
    assert metrics(whole) == metrics(resumed)
    assert_equal(weights(whole), weights(resumed))


def test_killed_after_the_last_step_it_does_not_go_on(prepared, monkeypatch):
    """Patience is a function of the table: killed while the model is written, the run trains no further."""
    settings = {"patience": 1}
    with dying(train.Trainer, "save_policy", lambda *_: True):
        trained(prepared, "unsaved", WORSENS, settings)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("it trains further"))
    result = trained(prepared, "unsaved", WORSENS, settings)[1]
    assert choice(result).last_step == len(metrics(result)) == 4


def interrupted(world, label, before, evaluated):
    """A run killed before a step."""
    with dying_before(before):
        trained(world, label, WORSENS, evaluated, keep_checkpoints=3)
    return RunPaths.of(world.run(train={"label": label}))


def test_a_damaged_best_checkpoint_is_not_gone_on_from(prepared, capsys):
    """Killed before step 7: the checkpoints after steps 4 and 6 need that of the best step, 2."""
    settings = {"policy": "best"}
    paths = interrupted(prepared, "damaged", 7, settings)
    damaged = paths.training / "checkpoints" / "step-000002" / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x55")
    with pytest.raises(InputError, match="No checkpoint of this run can be used"):
        trained(prepared, "damaged", WORSENS, settings, keep_checkpoints=3)
    assert "step-000006: it needs step 2, and of that weights.safetensors is not what was written" in (
        capsys.readouterr().err
    )


def test_a_damaged_lineage_is_written_again_with_the_evaluation_that_the_model_is_of(prepared):
    settings = {"policy": "best"}
    result = trained(prepared, "torn", WORSENS, settings)[1]
    path, before = result.paths.lineage, weights(result)
    lineage = manifests.read(Lineage, path)
    assert lineage.held_out.policy_step == 2
    path.write_bytes(path.read_bytes()[:-20])
    again = trained(prepared, "torn", WORSENS, settings)[1]
    assert manifests.read(Lineage, path) == lineage
    assert_equal(weights(again), before)


def test_a_run_that_ended_without_figures_is_finished_whatever_it_began_with(prepared):
    run = prepared.run(train={**FAST, "label": "began"})
    with dying_before(4):
        trained(prepared, "began")
    assert train.train(run).held_out().height == 2  # before the first step and after the second
    assert train.train(run).steps_done == 0
    path = RunPaths.of(run).lineage
    path.write_bytes(path.read_bytes()[:-20])
    train.train(run)
    assert train.train(run).steps_done == 0


@pytest.mark.parametrize("damage", ["changed", pytest.param("lost", marks=pytest.mark.long)])
def test_figures_that_are_damaged_are_computed_again(prepared, damage, capsys):
    whole = trained(prepared, "last", WORSENS)[1]
    paths = interrupted(prepared, damage, 7, {})
    lines = paths.held_out_log.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["step"] for line in lines] == [0, 2, 4, 6]
    changed = lines[3].replace(b'"accuracy": 0', b'"accuracy": 1') if damage == "changed" else b""
    paths.held_out_log.write_bytes(b"".join([*lines[:3], changed]))
    resumed = trained(prepared, damage, WORSENS, keep_checkpoints=3)[1]
    assert "Passed over a checkpoint: step-000006: held_out.jsonl" in capsys.readouterr().err
    assert rows(resumed) == rows(whole)


def test_a_dry_run_says_what_evaluating_would_add(prepared, capsys):
    """Three evaluations, after 0, 2 and 4 steps; the last token of a completion predicts nothing."""
    run = prepared.run(train={**FAST, "label": "dry"}, evaluate={"every": 2})
    train.estimate(run)
    lengths = pl.read_parquet(RunPaths.of(run).pairs("test")).select(pl.col("^.*_len$").cast(pl.Int64).sum())
    tokens = 3 * (sum(lengths.row(0)) - 2 * 12)
    assert f"held-out   {tokens:,} tokens over all evaluations, about" in capsys.readouterr().out


# What users get wrong


def expect(world, match, settings=FAST, **evaluated):
    run = world.run(train={"label": "refused", **settings}, evaluate=evaluated)
    with pytest.raises(InputError, match=match) as raised:
        train.train(run)
    assert not RunPaths.of(run).training.exists()
    return raised.value


@pytest.mark.parametrize("settings", [{"patience": 2}, {"policy": "best"}])
def test_going_by_figures_that_are_not_computed(prepared, settings):
    error = expect(prepared, "go by held-out figures, and none are computed", **settings)
    assert "--set evaluate.every=50" in error.fix


def test_no_held_out_pairs(world):
    world.prepare(world.random_pairs(40))
    score.score(world.run())
    assert "data.test_share" in expect(world, "no held-out pairs", every=2).fix


def test_reference_scores_are_needed_also_where_the_method_reads_none(world):
    world.prepare(world.random_pairs(40), world.random_pairs(8, seed=1))
    assert "scoreonce score" in expect(world, "no reference scores", {**FAST, "method": "simpo"}, every=2).fix


def test_a_metric_that_compares_needs_two_kinds_of_completions(world):
    world.prepare(*([(p, c, None) for p, c, _ in world.random_pairs(10, seed=seed)] for seed in (0, 1)))
    score.score(world.run())
    settings = {**FAST, "method": "sft"}
    error = expect(world, "compares two kinds", settings, every=2, patience=1, metric="accuracy")
    assert 'evaluate.metric = "loss"' in error.fix
    found = trained(world, "sft", method="sft", max_steps=2, evaluated={"patience": 1})[1].held_out()
    assert found["loss"].is_finite().all()
    assert found["accuracy"].null_count() == 2
