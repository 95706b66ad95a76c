"""Training with the newer methods: steps, held-out figures, and what depends on the step or on earlier ones."""

import json
import math

import polars as pl
import pytest
import torch
from killed_training import dying_in_update
from safetensors.torch import load_file

from scoreonce.pipeline import methods
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import stage as train

FAST = {"learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 2, "checkpoint_every": 1}
NEWER = [
    "simper",
    "alpha_po",
    "dr_dpo",
    "dpo_shift",
    "h_dpo",
    "ropo",
    "kl_dpo",
    "amapo",
    "gamma_simpo",
    "gamma_dpo",
    "bpo",
    "bpo_simpo",
    "humanline",
]
LOG_2_AT_FIRST = {"dr_dpo", "dpo_shift", "kl_dpo", "gamma_dpo", "humanline"}


@pytest.fixture(scope="module")
def prepared(shared_world):
    """A world of 24 training pairs and 8 held-out ones, scored."""
    shared_world.prepare(shared_world.random_pairs(24), shared_world.random_pairs(8, seed=1))
    score.score(shared_world.run())
    return shared_world


def trained(world, label, evaluate=None, budget=512, **settings):
    run = world.run(
        train={**FAST, "label": label, **settings},
        evaluate=evaluate or {},
        compute={"tokens_per_microbatch": budget},
    )
    train.train(run)
    return RunPaths.of(run)


def weights(paths):
    return load_file(paths.policy / "model.safetensors")


def metrics(paths):
    return [json.loads(line) for line in (paths.training / "metrics.jsonl").read_text().splitlines()]


def assert_equal(left, right, tolerance=0.0):
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", NEWER)
def test_two_steps_and_a_held_out_loss(prepared, method):
    """In several micro-batches; the loss of every logistic method but H-DPO is log 2 before the first step."""
    lines = metrics(trained(prepared, method, {"every": 1}, budget=90, method=method))
    assert len(lines) == 2
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert all("eval/loss" in line for line in lines)
    if method in LOG_2_AT_FIRST:
        assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("method", ["dr_dpo", "kl_dpo", "amapo", "gamma_simpo", "humanline"])
def test_micro_batches_change_nothing(prepared, method):
    """All pairs of a step at once, or pair by pair."""
    settings = {"method": method, "reweighting": "normalised"} if method == "kl_dpo" else {"method": method}
    whole, parts = (trained(prepared, f"{method}-{n}", budget=n, **settings) for n in (100_000, 1))
    assert_equal(weights(whole), weights(parts), 2e-5)
    for mine, theirs in zip(metrics(whole), metrics(parts), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_the_first_loss_of_h_dpo_is_not_log_2(prepared):
    """The policy is the reference, which is checked, and the loss that of -0.1 beta ref_margin."""
    settings = {"method": "h_dpo", "max_steps": 1, "batch_pairs": 24}
    first = metrics(trained(prepared, "h-first", **settings))[0]
    reference = pl.read_parquet(prepared.paths.reference("train"))["ref_margin"].to_numpy()
    expected = torch.nn.functional.softplus(torch.tensor(0.1 * 0.1 * reference)).mean().item()
    assert first["loss"] == pytest.approx(expected, rel=1e-4)
    assert abs(expected - math.log(2)) > 1e-3


def test_dpo_shift_follows_its_schedule(prepared):
    """In steps of one pair the loss is that of beta a - lam beta c, which are its rewards; lam is 0.5 + 0.5 t / 4."""
    settings = {"batch_pairs": 1, "max_steps": 4, "lam_schedule": "increase_linear"}
    lines = metrics(trained(prepared, "schedule", method="dpo_shift", **settings))
    for taken, line in enumerate(lines):
        logit = line["rewards/chosen"] - (0.5 + 0.125 * taken) * line["rewards/rejected"]
        assert line["loss"] == pytest.approx(math.log1p(math.exp(-logit)), rel=1e-6)
    assert lines[-1]["rewards/rejected"] != 0


def test_the_queue_of_gamma_po_is_kept_and_not_moved_by_evaluation(prepared):
    """Killed in the third step and resumed, or with figures after each step: the same weights and the same queue."""
    settings = {"method": "gamma_simpo", "max_steps": 4, "queue_normals": 8}
    whole = trained(prepared, "queue", **settings)
    with dying_in_update(3):
        trained(prepared, "queue-killed", **settings)
    killed = trained(prepared, "queue-killed", **settings)
    watched = trained(prepared, "queue-watched", {"every": 1}, **settings)
    queues = []
    for paths in (whole, killed, watched):
        assert_equal(weights(whole), weights(paths))
        queues.append(json.loads((paths.training / "checkpoints/step-000004/state.json").read_text())["method"])
    assert queues[0] == queues[1] == queues[2]
    assert len(queues[0]["policy_gap_queue"]) == 8 + 4 * 8
    assert queues[0]["policy_gap_steps"] == 4
    assert "state/policy_gap_queue" not in metrics(whole)[0]


def test_humanline_without_bounds_is_dpo(prepared):
    """Bounds that no token reaches: DPO's weights. Tight ones: others."""
    dpo = weights(trained(prepared, "dpo", method="dpo", max_steps=4))
    wide = trained(prepared, "wide", method="humanline", max_steps=4, log_eps_p=-1e3, log_eps_r=1e3, budget=90)
    tight = trained(prepared, "tight", method="humanline", max_steps=4, log_eps_p=-1e-3, log_eps_r=1e-3)
    assert_equal(weights(wide), dpo, 2e-5)
    assert max((weights(tight)[name] - dpo[name]).abs().max() for name in dpo) > 1e-4


@pytest.mark.parametrize("name", ["humanline_synced", "humanline-sync"])
def test_the_moving_reference_of_humanline_is_refused(name):
    with pytest.raises(InputError, match="Its clamp of token log-ratios is the method humanline"):
        methods.resolve(name, {})
