"""A short form of `make kills`, and how it judges."""

import subprocess
import sys
from pathlib import Path

import kills
import pytest

SCRIPT = Path(kills.__file__)


@pytest.mark.slow
def test_no_kill_leaves_a_trace():
    """Two kills of the stages that write most; `make kills` has 350 of all."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "28", "--only", "score", "train"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all |  | 4 | 0 | 4 | 0 |" in done.stdout or "| all |  | 3 | 1 | 4 | 0 |" in done.stdout


def careful():
    """Three file operations: a temporary file, its rename, a file."""
    Path("a.tmp").write_text("a")
    Path("a.tmp").rename("a")
    Path("b").write_text("b")
    return "done"


def careless():
    """Four: a temporary file of a name that nobody knows the next time, a file, and their removal and making."""
    own = Path(f"{len(list(Path().iterdir()))}.tmp")
    own.write_text("x")
    Path("a").write_text("a")
    own.unlink()
    return "done"


def stage_of(run, tmp_path):
    before = tmp_path / "before"
    before.mkdir()
    folder = kills.copied(before, tmp_path / "sound")
    digest, operations = kills.results_of(*kills.fork(folder, run))
    return kills.Stage("it", run, before, digest, kills.files_of(folder), operations, 0.1)


def test_a_stage_that_is_killed_and_given_again(tmp_path):
    stage = stage_of(careful, tmp_path)
    assert (stage.operations, stage.files) == (3, {"a", "b"})
    trials = [kills.killed(stage, tmp_path / "copy", number) for number in (1, 2, 3, 4)]
    assert [(trial.killed, trial.problem) for trial in trials] == [(True, "")] * 3 + [(False, "")]


def test_what_a_kill_leaves_behind_is_named(tmp_path):
    trial = kills.killed(stage_of(careless, tmp_path), tmp_path / "copy", 2)
    assert (trial.killed, trial.problem) == (True, "more files: ['0.tmp']; fewer: []")


def test_half_of_the_moments_are_operations():
    """Of ten operations three are the 1st, the 4th and the 7th."""
    stage = kills.Stage("it", careful, Path(), "", frozenset(), 10, 2.0)
    first, second, third, *times = kills.moments(stage, 5, seed=0)
    assert (first, second, third) == (1, 4, 7)
    assert len(times) == 2
    assert all(0 <= moment <= 2.0 for moment in times)


def test_table():
    stage = kills.Stage("it", careful, Path(), "", frozenset(), 1_000, 2.0)
    stage.trials = [kills.Trial("operation 1", True), kills.Trial("1 s", False), kills.Trial("2 s", True, "other")]
    assert kills.table([stage])[2:] == ["| it | 1,000 | 2 | 1 | 2 | 1 |", "| all |  | 2 | 1 | 2 | 1 |"]
