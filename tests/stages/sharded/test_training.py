"""Training with a model in parts: the policy that one process trains, whatever the number of processes."""

import json
import re

import pytest
import torch
from launches import launch
from safetensors.torch import load_file

from scoreonce.pipeline import methods
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.score import stage as score
from scoreonce.stages.sharded.scorer import require_can_be_sharded
from scoreonce.stages.train import stage as train

FAST = {"learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 4, "checkpoint_every": 2}


@pytest.fixture
def prepared(world):
    """A world of 40 training pairs, scored."""
    world.prepare(world.random_pairs(40), world.random_pairs(8, seed=1))
    score.score(world.run(score={"mismatched": True, "full_vocab": "hidden"}))
    return world


def weights(run):
    paths = RunPaths.of(run)
    return {
        name: tensor for path in sorted(paths.policy.glob("*.safetensors")) for name, tensor in load_file(path).items()
    }


def metrics(run):
    return [json.loads(line) for line in (RunPaths.of(run).training / "metrics.jsonl").read_text().splitlines()]


def assert_same(left, right, tolerance=2e-5):
    one, other = weights(left), weights(right)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)
    for mine, theirs in zip(metrics(left), metrics(right), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert mine["beta/mean"] == pytest.approx(theirs["beta/mean"], abs=1e-6)
        assert mine["selection/kept"] == theirs["selection/kept"]
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def kept(said):
    """Of each process and run: how many weights it keeps, of how many."""
    return [tuple(map(int, found)) for found in re.findall(r"kept (\d+) (\d+)", said)]


# Of each case: settings of [train], and of [compute].
CASES = {
    "dpo": ({}, {}),
    "beta_dpo": ({}, {"tokens_per_microbatch": 128}),  # several micro-batches: its statistics are of the whole step
    "alpha_dpo": ({}, {}),
    "epsilon_dpo": ({}, {"tokens_per_microbatch": 128}),  # reads stored hidden states
    "kto": ({}, {}),
    "lora": ({"method": "dpo", "lora_rank": 2}, {}),
    "recomputed": ({"method": "dpo", "gradient_checkpointing": True}, {"tokens_per_microbatch": 128}),
    "clipped": ({"method": "dpo", "max_grad_norm": 0.01, "optimizer": "sgd", "learning_rate": 1.0}, {}),
}


@pytest.mark.slow
def test_two_processes_with_a_part_each_train_what_one_process_does(prepared):
    tied = {"model": str(prepared.model("tied", tie_word_embeddings=True))}
    cases = {**CASES, "tied": ({"method": "dpo", **tied}, {})}
    runs = {
        kind: [
            prepared.run(
                train={**FAST, "method": name, **settings, "label": f"{name}-{kind}"},
                compute={"shard": kind, **compute},
            )
            for name, (settings, compute) in cases.items()
        ]
        for kind in ("none", "full")
    }
    said = launch("train", runs["full"], 2)
    shares = [own / of for own, of in kept(said)]
    assert len(shares) == 2 * len(cases)
    assert max(shares) < 0.52
    for one, two in zip(runs["none"], runs["full"], strict=True):
        train.train(one)
        assert_same(one, two)


@pytest.mark.long
def test_checkpoints_of_three_processes_go_on_with_two_and_with_one(prepared):
    """Interrupted in step 3 by three, in step 5 by two, finished by one that keeps all; and the other way round."""
    settings = {**FAST, "method": "beta_dpo", "max_steps": 6}
    whole = prepared.run(train={**settings, "label": "whole"})
    train.train(whole)
    parts = prepared.run(train={**settings, "label": "parts"}, compute={"shard": "full"})
    launch("train", [parts], 3, until=3)
    checkpoints = RunPaths.of(parts).training / "checkpoints"
    assert [path.name for path in sorted(checkpoints.iterdir())] == ["step-000002"]
    assert len(list((checkpoints / "step-000002").glob("shard-*.safetensors"))) == 3
    launch("train", [parts], 2, until=5)
    train.train(parts.replace({"compute.shard": "none"}))
    assert_same(whole, parts)


@pytest.mark.long
def test_two_nodes_keep_a_copy_each(prepared):
    """Two launchers of two processes: the parts are of one node's two processes."""
    settings = {**FAST, "method": "alpha_dpo"}
    runs = [prepared.run(train={**settings, "label": kind}, compute={"shard": kind}) for kind in ("hybrid", "none")]
    said = launch("train", runs[:1], 2, nodes=2)
    assert all(0.48 < own / of < 0.52 for own, of in kept(said))
    train.train(runs[1])
    assert_same(*runs)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"optimizer": "adafactor"}, "needs whole weights"),
        ({"method": "tdpo", "full_vocab": "live"}, "second whole model"),
        ({"lora_rank": 2, "lora_dropout": 0.1}, "plain matrices"),
        ({"lora_rank": 2, "lora_use_dora": True}, "plain matrices"),
        ({"lora_rank": 2, "lora_modules_to_save": ["lm_head"]}, "plain matrices"),
        ({"lora_rank": 2, "lora_targets": ["all-experts"]}, "plain matrices"),
        ({"lora_rank": 2, "quantization": "nf4"}, "in 4 bits"),
        ({"lora_rank": 2, "adapter": "an-adapter"}, "a model with an adapter"),
        ({"lora_continue": True, "adapter": "an-adapter"}, "a model with an adapter"),
    ],
)
def test_what_needs_a_whole_model_is_refused(world, settings, what):
    """From the run file alone, so before a model is loaded: there is no such adapter."""
    reference = {name: settings[name] for name in ("quantization", "adapter") if name in settings}
    trained = {name: value for name, value in settings.items() if name not in reference}
    run = world.run(reference=reference, train={"method": "dpo", **trained}, compute={"shard": "full"})
    with pytest.raises(InputError, match=what) as caught:
        require_can_be_sharded(run, methods.resolve(run.train.method, {}))
    assert all(part for part in (caught.value.found, caught.value.where, caught.value.fix))


def test_an_offloaded_optimizer_is_not_sharded(world):
    run = world.run(compute={"shard": "full", "offload_optimizer": True})
    with pytest.raises(InputError, match="not offloaded") as caught:
        require_can_be_sharded(run, methods.resolve(run.train.method, {}))
    assert "compute.offload_optimizer = true" in caught.value.found
