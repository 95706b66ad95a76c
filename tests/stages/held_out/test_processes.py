"""Held-out figures in several processes: those of one, and all stop at the same step."""

import pytest
from launches import launch

from scoreonce.schemas.manifests import Lineage
from scoreonce.stages.common import manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.training_runs import held_out_rows
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import stage as train


@pytest.mark.slow
def test_two_processes_with_a_copy_and_with_a_part_each(world):
    """11 held-out pairs in micro-batches of 90 tokens: the processes have different numbers of them."""
    world.prepare(world.random_pairs(40), world.random_pairs(11, seed=1))
    score.score(world.run())

    def run(label, shard):
        settings = {"learning_rate": 2e-2, "scheduler": "constant", "warmup_ratio": 0.0, "beta": 1.0}
        return world.run(
            train={**settings, "batch_pairs": 8, "max_steps": 10, "label": label},
            evaluate={"every": 1, "patience": 2, "policy": "best"},
            compute={"shard": shard, "tokens_per_microbatch": 90},
        )

    one, two = run("one", "none"), [run("copies", "none"), run("parts", "full")]
    train.train(one)
    launch("train", two, 2)
    expected, found = (manifests.read(Lineage, RunPaths.of(one).lineage).held_out, held_out_rows(RunPaths.of(one)))
    assert expected.stopped == "patience"
    for each in two:
        ended = manifests.read(Lineage, RunPaths.of(each).lineage).held_out
        assert (ended.last_step, ended.policy_step) == (expected.last_step, expected.policy_step)
        assert (RunPaths.of(each).policy / "config.json").is_file()
        others = held_out_rows(RunPaths.of(each))
        assert [row["step"] for row in others] == [row["step"] for row in found]
        # Weights differ by rounding after the first step, and so do figures.
        tolerances = [1e-6, *[1e-4] * (len(found) - 1)]
        for mine, theirs, tolerance in zip(found, others, tolerances, strict=True):
            # Before the first step margins are rounding alone, and so are their signs.
            losses = {"pair_losses"} if not mine["step"] else set()
            for name in mine.keys() - ({"seconds"} if mine["step"] else {"seconds", "accuracy"}) - losses:
                assert theirs[name] == pytest.approx(mine[name], rel=tolerance, abs=tolerance), name
            # That of one pair is half the error of its two sums, of some twenty tokens; a mean's is less.
            for name in losses:
                assert theirs[name] == pytest.approx(mine[name], abs=1e-5), name
