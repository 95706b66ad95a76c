"""compute.shard = "auto": by the estimate, on GPUs only."""

import pytest
import torch

from scoreonce.pipeline.memory.peaks import Peak
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Compute
from scoreonce.stages.score.stage import score
from scoreonce.stages.sharded import choice
from scoreonce.stages.sharded.choice import choose_shard, judge
from scoreonce.stages.train.stage import train

GIB = 1 << 30


def refuse():
    raise InputError("No.", found="train.optimizer = 'adafactor'", where="w", fix="f")


def peak(gib):
    return lambda: Peak("the optimizer's step", {"weights": int(gib * GIB)})


@pytest.mark.parametrize(
    ("needed", "require", "shard", "said"),
    [
        (peak(76.9), lambda: None, "none", "training takes about 76.9 GiB of 80.0 GiB"),
        (peak(77.1), lambda: None, "full", "training takes about 77.1 GiB of 80.0 GiB"),
        (peak(77.1), refuse, "none", "this run cannot be sharded (train.optimizer = 'adafactor')"),
        (refuse, lambda: None, "none", "cannot be worked out (train.optimizer = 'adafactor')"),
    ],
)
def test_parts_where_the_whole_model_does_not_fit(needed, require, shard, said):
    """Three GiB are for what the estimate does not count."""
    found = judge("training", needed, 80 * GIB, require)
    assert found.shard == shard
    assert said in found.reason


@pytest.mark.usefixtures("mesh")
def test_nothing_is_estimated_without_several_gpus(monkeypatch):
    assert choose_shard(Compute(), torch.device("cpu"), "training", None) == "none"
    assert choose_shard(Compute(), torch.device("cuda"), "training", None) == "none"  # one process
    monkeypatch.setattr(choice.dist, "get_world_size", lambda: 2)
    assert choose_shard(Compute(), torch.device("cpu"), "training", None) == "none"
    assert choose_shard(Compute(shard="hybrid"), torch.device("cuda"), "training", None) == "hybrid"
    assert choose_shard(Compute(offload=True), torch.device("cuda"), "training", None) == "full"


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize(("memory", "shard"), [(80, "none"), (3, "full")])
def test_several_gpus_share_out_what_does_not_fit_one(monkeypatch, capsys, memory, shard):
    properties = type("Properties", (), {"total_memory": memory * GIB})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(choice.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(choice, "on_first", lambda work: work())
    asked = []

    def peak(sharing):
        asked.append((sharing.gpus, sharing.shard))
        return Peak("m", {"weights": GIB})

    assert choose_shard(Compute(), torch.device("cuda"), "scoring", peak) == shard
    assert asked == [(2, "none")]
    assert f'compute.shard = "auto" is "{shard}": with the whole model on each GPU, scoring' in capsys.readouterr().out


def test_the_run_is_kept_as_it_was_written(world):
    """On a CPU "auto" is "none"; run.toml has what the run file says."""
    world.prepare(world.random_pairs(8), world.random_pairs(2, seed=1))
    run = world.run(train={"method": "dpo", "batch_pairs": 4, "max_steps": 1}, compute={"shard": "auto"})
    score(run)
    train(run)
    assert 'shard = "auto"' in (RunPaths.of(run).training / "run.toml").read_text()
