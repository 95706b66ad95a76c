"""When checkpoints are written, by a clock of the test's own."""

import pytest

from scoreonce.stages.score import stage as score
from scoreonce.stages.train import checkpoint
from scoreonce.stages.train import stage as train
from scoreonce.stages.train.checkpoint import CheckpointInterval


@pytest.fixture
def prepared(world):
    world.prepare(world.random_pairs(40))
    score.score(world.run())
    return world


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    return now


def written(clock, interval, steps, *, of_a_step, of_a_checkpoint):
    """The steps after which a checkpoint is written."""
    made = []
    for step in range(1, steps + 1):
        clock[0] += of_a_step
        if interval.ends_at(step) and interval.is_worth_it():
            with interval.writing():
                clock[0] += of_a_checkpoint
            made.append(step)
    return made


def test_a_tenth_of_the_run_by_default(clock):
    """25 steps: every third, as the interval is rounded up. Writing for 0.1 s takes 3 % of three steps of 1 s."""
    found = written(clock, CheckpointInterval.of(None, 25), 25, of_a_step=1.0, of_a_checkpoint=0.1)
    assert found == [3, 6, 9, 12, 15, 18, 21, 24]


def test_further_apart_where_writing_takes_long(clock):
    """8 s are 5 % of 160 s, and a tenth of 1,000 steps of 0.5 s is 50 s: so after 50 s, then every fourth tenth."""
    found = written(clock, CheckpointInterval.of(None, 1_000), 1_000, of_a_step=0.5, of_a_checkpoint=8.0)
    assert found == [100, 500, 900]


def test_as_often_as_the_run_file_says(clock):
    found = written(clock, CheckpointInterval.of(2, 7), 7, of_a_step=0.5, of_a_checkpoint=8.0)
    assert found == [2, 4, 6]


def test_a_run_writes_them_by_that_interval(prepared, monkeypatch, clock):
    """Nine steps of no time and checkpoints of one second: after the first step, and after the last."""

    def save(folder, training, step, state, **options):
        clock[0] += 1.0
        made.append(step)
        return honest(folder, training, step, state, **options)

    made, honest = [], checkpoint.save
    monkeypatch.setattr(checkpoint, "save", save)
    train.train(prepared.run(train={"learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 9}))
    assert made == [1, 9]
