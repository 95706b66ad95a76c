"""Training runs as `train` leaves them while it is at work, without training anything."""

from dataclasses import replace

import pytest

from scoreonce.schemas.manifests import Lineage
from scoreonce.stages.common import manifests
from scoreonce.stages.common.locking import exclusive
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data.json_lines import append_line, write_lines


def row(step, **metrics):
    """A line of metrics.jsonl: a step of two seconds with 8 pairs."""
    return {
        "step": step,
        "loss": 0.7 - step / 100,
        "rewards/margins": step / 10,
        "rewards/accuracies": 0.5,
        "perf/seconds": 2.0,
        "perf/pairs_per_second": 4.0,
        **metrics,
    }


class Trained:
    """Writes what a training run writes."""

    def __init__(self, paths):
        self.paths = paths
        self.log = paths.training / "metrics.jsonl"
        paths.training.mkdir(parents=True, exist_ok=True)

    def begins(self, *, pairs=80, **train):
        """Eight pairs a step, one epoch."""
        settings = {"batch_pairs": 8, "epochs": 1, "max_steps": None, **train}
        counts = {"raw": pairs, "train": pairs, "test": 0, "quarantined": 0, "by_reason": {}}
        named = {"name": "dpo", "title": "DPO", "paper": None, "hyperparameters": {}, "objective": "dpo"}
        lineage = Lineage(
            label=self.paths.label,
            identity="0" * 64,
            method={**named, "calibration": [], "selection": "every_pair"},
            train=settings,
            policy={"model": "m", "weights": "0" * 64, "adapter": None},
            reference=None,
            data={"source": "s", "pairs": pairs, "pair_ids": "0" * 64, "files": {}, "counts": counts},
            versions={},
        )
        manifests.write(self.paths.lineage, lineage)
        return self

    def steps(self, *numbers, **metrics):
        for number in numbers:
            append_line(self.log, row(number, **metrics))
        return self

    def cut_to(self, last):
        """As a resumed run begins."""
        write_lines(self.log, [row(number) for number in range(1, last + 1)])

    def ends(self):
        self.paths.policy.mkdir()

    def working(self):
        """Holds the lock in a block."""
        lock = self.paths.lock(self.paths.training)
        lock.parent.mkdir(parents=True, exist_ok=True)
        return exclusive(lock, "the run")


@pytest.fixture
def run(tmp_path):
    return Run.model_validate({"out": f"{tmp_path}/out", "data": {"source": "none"}, "reference": {"model": "none"}})


@pytest.fixture
def paths(run):
    return RunPaths.of(run)


@pytest.fixture
def run_of(paths):
    return lambda label: Trained(replace(paths, label=label))
