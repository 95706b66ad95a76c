"""One writer at a time, each with a lock of its own, outside of what it locks."""

import os
from pathlib import Path

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths


def paths_in(folder: Path, label: str = "dpo") -> RunPaths:
    return RunPaths(folder, folder / "store", label)


def test_every_file_and_folder_that_a_stage_writes_has_a_lock_of_its_own(tmp_path):
    paths = paths_in(tmp_path)
    written = [
        paths.prepared,
        paths.audit,
        paths.report,
        paths.training,
        paths.evaluation,
        paths_in(tmp_path, "a").training,
    ]
    locks = [paths.lock(path) for path in written]
    assert len(set(locks)) == len(locks)
    assert {lock.parent for lock in locks} == {tmp_path / ".locks"}


def test_the_second_is_told_who_holds_it_and_restart_waits_for_the_lock(tmp_path):
    paths = paths_in(tmp_path)
    paths.training.mkdir(parents=True)
    with (
        locked(paths, paths.training, "the training run dpo"),
        pytest.raises(InputError, match="The training run dpo is in use by another process") as caught,
        locked(paths, paths.training, "the training run dpo", timeout=0, restart=True),
    ):
        pass
    assert f"process {os.getpid()} on " in caught.value.found
    assert paths.training.is_dir()
    with locked(paths, paths.training, "the training run dpo", timeout=0, restart=True):
        assert not paths.training.exists()


def test_what_a_killed_command_left_unfinished_is_removed_and_nothing_else(tmp_path):
    paths, away = paths_in(tmp_path / "out"), tmp_path / "away"
    away.mkdir()
    (away / ".other.1.tmp").touch()
    model = paths.training / ".model.tmp"
    model.mkdir(parents=True)
    (paths.training / "link").symlink_to(away)
    for name in (".model.tmp/config.json", ".metrics.jsonl.12.tmp", "metrics.jsonl", "notes.tmp", ".kept"):
        (paths.training / name).touch()
    for name in (".report.html.12.tmp", ".other.html.12.tmp"):
        (paths.out / name).touch()
    lock = paths.lock(paths.training)
    lock.parent.mkdir()
    (lock.parent / f".{lock.stem}.holder.json.12.tmp").touch()
    for written in (paths.training, paths.report):
        with locked(paths, written, "it"):
            pass
    assert {path.name for path in paths.training.iterdir()} == {"metrics.jsonl", "notes.tmp", ".kept", "link"}
    assert not (paths.out / ".report.html.12.tmp").exists()
    assert (paths.out / ".other.html.12.tmp").exists()
    assert not list(lock.parent.glob(".*.tmp"))
    assert (away / ".other.1.tmp").exists()
