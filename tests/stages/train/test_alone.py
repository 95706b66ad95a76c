"""One run under a label, in its own folder, the same on all processes; stopped or diverged, nothing bad is kept."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import stage as train

FAST = {"learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 6, "checkpoint_every": 100}


@pytest.fixture
def prepared(world):
    """A world of 40 training pairs, scored."""
    world.prepare(world.random_pairs(40))
    score.score(world.run())
    return world


def run_of(world, label="one", out=None, **settings):
    run = world.run(train={**FAST, "label": label, **settings})
    return run if out is None else run.replace({"out": str(out)})


def files_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Two on one label


def test_a_second_run_under_a_label_is_refused_and_changes_nothing(prepared):
    """Without the lock it would add its steps to the metrics of the first."""
    run = run_of(prepared, max_steps=1)
    paths = RunPaths.of(run)
    train.train(run)
    before = files_in(paths.training)
    with (
        locked(paths, paths.training, "the training run one"),
        pytest.raises(InputError, match="training run one is in use") as caught,
    ):
        train.train(run, restart=True, lock_timeout=0)
    assert f"process {os.getpid()}" in caught.value.found
    assert files_in(paths.training) == before
    train.train(run, restart=True, lock_timeout=0)


def test_runs_under_other_labels_do_not_wait(prepared):
    paths = RunPaths.of(run_of(prepared, "other"))
    with locked(paths, paths.training, "the training run other"):
        assert train.train(run_of(prepared, max_steps=1), lock_timeout=0).steps_done == 1


# Nothing outside `out`


def test_restart_removes_a_symbolic_link_and_not_what_it_leads_to(prepared, tmp_path):
    mine = tmp_path / "mine"
    (mine / "model").mkdir(parents=True)
    (mine / "model" / "thesis.txt").write_text("x")
    run = run_of(prepared, max_steps=1)
    paths = RunPaths.of(run)
    paths.training.parent.mkdir()
    paths.training.symlink_to(mine)
    with pytest.raises(InputError, match="Nothing outside the folder of a run"):
        train.train(run)
    train.train(run, restart=True)
    assert not paths.training.is_symlink()
    assert paths.policy.is_dir()
    assert [str(path) for path in files_in(mine)] == ["model/thesis.txt"]


def test_a_link_in_the_place_of_the_model_is_replaced(prepared, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    run = run_of(prepared, max_steps=1)
    paths = RunPaths.of(run)
    train.train(run)
    saved = files_in(paths.policy)
    paths.policy.rename(tmp_path / "away")
    paths.policy.symlink_to(mine / "gone")  # not a folder, so the run is not finished
    train.train(run)
    assert not paths.policy.is_symlink()
    assert files_in(paths.policy) == saved
    assert [str(path) for path in files_in(mine)] == ["thesis.txt"]


# Ctrl-C


@pytest.fixture
def _foreground():
    """A shell starts what it runs in the background with SIGINT ignored; these tests are to pass there too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(monkeypatch, times):
    honest = train.Trainer.take

    def take(self, step, *rest):
        for _ in range(times if step == 3 else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return honest(self, step, *rest)

    monkeypatch.setattr(train.Trainer, "take", take)


@pytest.mark.usefixtures("_foreground")
def test_ctrl_c_finishes_the_step_and_writes_a_checkpoint(prepared, monkeypatch, capsys):
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupted(patch, times=1)
        with pytest.raises(KeyboardInterrupt):
            train.train(run_of(prepared, "stopped"))
    assert "Ctrl-C again stops at once" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is handler
    stopped, whole = (RunPaths.of(run_of(prepared, label)) for label in ("stopped", "whole"))
    assert [path.name for path in (stopped.training / "checkpoints").iterdir()] == ["step-000003"]
    train.train(run_of(prepared, "stopped"))
    train.train(run_of(prepared, "whole"))
    resumed, uninterrupted = (load_file(paths.policy / "model.safetensors") for paths in (stopped, whole))
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)


@pytest.mark.usefixtures("_foreground")
def test_a_second_ctrl_c_stops_at_once(prepared, monkeypatch):
    interrupted(monkeypatch, times=2)
    with pytest.raises(KeyboardInterrupt):
        train.train(run_of(prepared))
    assert not (RunPaths.of(run_of(prepared)).training / "checkpoints").exists()


@pytest.mark.usefixtures("_foreground")
def test_ctrl_c_is_not_for_a_run_in_the_background(prepared, monkeypatch):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupted(monkeypatch, times=2)
    assert train.train(run_of(prepared)).steps_done == 6


# The last step


@pytest.mark.parametrize("steps", [1, 2])
def test_weights_that_are_not_finite_are_never_kept(prepared, steps):
    """A decay of 1e30 * 1e9 overflows float32 in the first step; the loss shows it in the second, if there is one."""
    run = run_of(prepared, learning_rate=1e30, weight_decay=1e9, scheduler="constant", max_steps=steps)
    with pytest.raises(InputError, match="Training diverged") as caught:
        train.train(run)
    paths = RunPaths.of(run)
    assert not paths.policy.exists()
    assert not list((paths.training / "checkpoints").glob("step-*"))
    if steps == 1:
        assert "weights of" in caught.value.found
        assert caught.value.where.startswith("after step 1")


# Several processes


TWO_PROCESSES = """
import json, os, sys
from accelerate import Accelerator
from scoreonce.schemas.errors import InputError
from scoreonce.stages.train import stage as train
from scoreonce.stages.config import Run

rank = Accelerator(cpu=True).process_index
for name, trees in json.loads(sys.argv[1]).items():
    try:
        train.train(Run.model_validate(trees[rank]))
        said = "trained"
    except InputError as error:
        said = error.found
    with open(os.path.join(sys.argv[2], f"{name}-{rank}.txt"), "w") as handle:
        handle.write(said)
"""


@pytest.mark.slow
def test_two_processes_that_differ_are_refused_on_both(prepared, tmp_path):
    """Process 1 has an `out` of its own: other steps done, other settings, other pairs. None of them is trained."""
    other = prepared.folder / "other"
    subprocess.run(["cp", "-r", str(prepared.paths.out), str(other)], check=True)
    ahead = run_of(prepared, "steps", other)
    killed = train.Trainer.take

    def take(self, step, *rest):
        if step == 4:
            raise KeyboardInterrupt
        return killed(self, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Trainer, "take", take)
        with pytest.raises(KeyboardInterrupt):
            train.train(ahead.replace({"train.checkpoint_every": 3}))
    launched = {
        "steps": [run_of(prepared, "steps"), ahead],
        "settings": [run_of(prepared, "settings"), run_of(prepared, "settings", other, learning_rate=1e-2)],
        "pairs": [run_of(prepared, "pairs"), run_of(prepared, "pairs", other, where="chosen_len > 3")],
        "parts": [run_of(prepared, "parts"), run_of(prepared, "parts").replace({"compute.shard": "full"})],
    }
    script, said = tmp_path / "two.py", tmp_path / "said"
    script.write_text(TWO_PROCESSES)
    said.mkdir()
    trees = {name: [run.model_dump(exclude_none=True) for run in runs] for name, runs in launched.items()}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(script), json.dumps(trees), str(said)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    heard = {name: [(said / f"{name}-{rank}.txt").read_text() for rank in (0, 1)] for name in launched}
    for name, (first, second) in heard.items():
        assert first == second, name
    assert 'the last checkpoint: null on process 0, "step-000003" on process 1' in heard["steps"][0]
    assert "the settings of [train]: " in heard["settings"][0]
    assert "the pairs: " in heard["pairs"][0]
    assert 'compute.shard: "none" on process 0, "full" on process 1' in heard["parts"][0]
    assert not list(prepared.folder.glob("o*/train/*/model"))
