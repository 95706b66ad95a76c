"""Which runs are watched, and how they stand."""

import os

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.watch.runs import WatchedRun, chosen, require_logged


def test_the_states_of_a_run(run_of):
    run = run_of("dpo")
    watched = WatchedRun(run.paths)
    assert (watched.look().state, watched.look().steps) == ("waiting", None)
    with run.working():
        run.begins()
        assert watched.look().state == "training"
        run.steps(1, 2, 3)
        assert [row["step"] for row in watched.look().rows] == [1, 2, 3]
    state = watched.look()
    assert (state.state, state.steps) == ("stopped", 10)  # 80 pairs by 8
    with run.working():
        run.cut_to(2)
        state = watched.look()
        assert (state.state, len(state.rows)) == ("training", 2)
        run.steps(*range(3, 11))
        run.ends()
        assert watched.look().state == "training", "the model may still be being written"
    assert watched.look().state == "finished"


@pytest.mark.parametrize(
    ("settings", "steps"), [({}, 10), ({"epochs": 2.5}, 25), ({"max_steps": 7}, 7), ({"pairs": 81}, 11)]
)
def test_planned_steps(run_of, settings, steps):
    assert WatchedRun(run_of("dpo").begins(**settings).paths).look().steps == steps


def test_a_holder_that_was_killed_is_not_at_work(run_of):
    run = run_of("dpo").begins().steps(1)
    lock = run.paths.lock(run.paths.training)
    lock.parent.mkdir(parents=True)
    lock.with_suffix(".holder.json").write_text("{}")
    assert WatchedRun(run.paths).look().state == "stopped"


def labels(runs):
    return [run.label for run in runs]


def test_which_runs_are_watched(paths, run_of):
    assert labels(chosen(paths, [])) == ["dpo"]  # the run file's, which may begin yet
    old, new, now = (run_of(name).begins().steps(1) for name in ("beta_dpo", "ipo", "alpha_dpo"))
    os.utime(old.log, (1, 1))
    os.utime(new.log, (3, 3))
    os.utime(now.log, (2, 2))
    assert labels(chosen(paths, [])) == ["ipo"]
    with now.working(), old.working():
        assert labels(chosen(paths, [])) == ["alpha_dpo", "beta_dpo"]
    assert labels(chosen(paths, ["ipo", "beta_dpo", "ipo"])) == ["ipo", "beta_dpo"]
    with pytest.raises(InputError, match="label"):
        chosen(paths, ["../x"])


def test_nothing_to_show_is_an_error(paths, run_of):
    run_of("beta_dpo").begins().steps(1)
    with pytest.raises(InputError) as raised:
        require_logged(paths, [WatchedRun(run).look() for run in chosen(paths, ["beta_dop"])])
    assert "Did you mean 'beta_dpo'" in raised.value.found
    assert raised.value.fix == "Give one of: beta_dpo."
    require_logged(paths, [WatchedRun(run).look() for run in chosen(paths, ["beta_dpo", "beta_dop"])])
