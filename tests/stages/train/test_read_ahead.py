"""Reference distributions of the next step are read while this one is computed, and only those."""

import threading

import pytest
import torch

from scoreonce.pipeline.batches.read_ahead import ReadAhead
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.score import stage as score
from scoreonce.stages.store.tensor_rows import TensorRows
from scoreonce.stages.train import stage as train

MAIN = threading.main_thread()


class Disk:
    """Each read waits until it is let through, and is written down with its thread."""

    def __init__(self, *, gated: bool = False) -> None:
        self.read, self.gate, self.begun = [], threading.Event(), threading.Event()
        if not gated:
            self.gate.set()

    def __call__(self, batch):
        self.begun.set()
        self.gate.wait(60)
        self.read.append((batch, threading.current_thread() is MAIN))
        if batch == ("bad",):
            raise InputError("gone", found="", where="", fix="")
        return [torch.tensor([len(name) for name in batch])]


@pytest.fixture
def reader():
    made = []

    def make(disk):
        made.append(ReadAhead(disk))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_the_next_step_is_read_while_this_one_is_computed(reader):
    """Announcing returns at once; the thread reads alone, in order; asking waits for it."""
    disk = Disk(gated=True)
    ahead = reader(disk)
    ahead.announce([("a",), ("bb", "c")])
    ahead.announce([("d",)])
    assert disk.begun.wait(60)
    assert disk.read == []
    disk.gate.set()
    assert ahead(("bb", "c"))[0].tolist() == [2, 1]
    assert ahead(("a",))[0].tolist() == [1]
    ahead.announce([])
    assert ahead(("d",))[0].tolist() == [1]
    assert disk.read == [(("a",), False), (("bb", "c"), False), (("d",), False)]


def test_what_was_not_announced_is_read_where_it_is_asked_for(reader):
    disk = Disk()
    assert reader(disk)(("a",))[0].tolist() == [1]
    assert disk.read == [(("a",), True)]


def test_an_error_is_raised_by_the_step_that_needs_it(reader):
    ahead = reader(Disk())
    ahead.announce([("a",)])
    ahead.announce([("bad",)])
    ahead(("a",))
    ahead.announce([])
    with pytest.raises(InputError, match="gone"):
        ahead(("bad",))


def test_no_more_than_two_steps_are_kept(reader):
    """What was announced for a step that is over is read again if it is asked for."""
    disk = Disk()
    ahead = reader(disk)
    for name in "abc":
        ahead.announce([(name,)])
    ahead(("b",))
    ahead(("a",))
    assert disk.read[-1] == (("a",), True)
    assert set(ahead._now) | set(ahead._next) == {("b",), ("c",)}


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "tdpo2"},  # pair by pair
        {"method": "tdpo2", "calibration": "batch_beta", "full_vocab": "topk"},  # a micro-batch is forwarded twice
        {"method": "tdpo2", "calibration": "batch_beta", "scope": "microbatch", "microbatch_pairs": 3},
    ],
)
def test_training_reads_every_step_ahead(world, monkeypatch, settings):
    """Three steps in micro-batches of few tokens: all reads are the thread's, and each completion is read once."""
    world.prepare(world.random_pairs(24))
    form = {"full_vocab": settings.get("full_vocab", "hidden"), "topk": 8}
    score.score(world.run(score=form))
    by_main, read, honest = [], [], TensorRows.read

    def watched(self, ids, column):
        by_main.append(threading.current_thread() is MAIN)
        read.extend(ids if column in ("hidden", "ids") else [])
        return honest(self, ids, column)

    monkeypatch.setattr(TensorRows, "read", watched)
    run = world.run(
        train={"batch_pairs": 8, "max_steps": 3, "verify_pairs": 0, **settings},
        score=form,
        compute={"tokens_per_microbatch": 64},
    )
    train.train(run)
    assert by_main
    assert not any(by_main)
    assert len(read) == len(set(read)) == 48
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


def test_a_block_that_goes_bad_ends_training_with_its_name(world, monkeypatch):
    """The thread meets it a step early; the steps before are taken and logged."""
    world.prepare(world.random_pairs(24))
    score.score(world.run(score={"full_vocab": "hidden"}))
    count, honest = [0], TensorRows.read

    def fails(self, ids, column):
        count[0] += 1
        if count[0] == 3:
            raise InputError("gone bad", found="", where="the third step", fix="")
        return honest(self, ids, column)

    monkeypatch.setattr(TensorRows, "read", fails)
    run = world.run(train={"method": "tdpo1", "batch_pairs": 8, "max_steps": 3, "checkpoint_every": 1})
    with pytest.raises(InputError, match="gone bad"):
        train.train(run)
    steps = sorted(path.name for path in (RunPaths.of(run).training / "checkpoints").iterdir())
    assert steps == ["step-000001", "step-000002"]
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
