"""How disks are filled, and what is told of it."""

import os
import subprocess
import sys
from pathlib import Path

import full_disk
import kills
import pytest

from scoreonce.schemas.errors import InputError


def writes_three_pages():
    """Writes a file whole or not at all, as the stages do."""
    try:
        Path("a.tmp").write_bytes(b"x" * 3 * full_disk.PAGE)
    except OSError:
        Path("a.tmp").unlink()
        raise
    Path("a.tmp").rename("a")
    return "done"


def stage_of(run, tmp_path):
    before = tmp_path / "before"
    before.mkdir()
    return kills.Stage("it", run, before, "done", frozenset({"a"}), 2, 0.1)


@pytest.fixture
def _mounts(tmp_path):
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux")
    try:
        with full_disk.disk(tmp_path / "disk", full_disk.PAGE):
            pass
    except (OSError, subprocess.CalledProcessError):
        (tmp_path / "disk").rmdir()
        pytest.skip("file systems cannot be mounted here")


@pytest.mark.usefixtures("_mounts")
def test_a_disk_that_is_full_is_told_and_room_is_enough(tmp_path):
    stage = stage_of(writes_three_pages, tmp_path)
    trials = [full_disk.tried(stage, tmp_path / "disk", pages * full_disk.PAGE) for pages in (1, 2, 4)]
    assert [(trial.told, trial.problem) for trial in trials] == [(True, ""), (True, ""), (False, "")]


def test_files_take_whole_pages(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"x" * (full_disk.PAGE + 1))
    assert full_disk.room_of(tmp_path) == 2 * full_disk.PAGE


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), InputError("x", found="No space left", where="x", fix="x")]
)
def test_a_full_disk_is_told(error):
    def stage():
        raise error

    assert full_disk.telling(stage)() == full_disk.TOLD


@pytest.mark.parametrize("error", [ValueError("x"), InputError("x", found="x", where="x", fix="x")])
def test_another_error_is_no_word_of_the_disk(error):
    def stage():
        raise error

    with pytest.raises(type(error)):
        full_disk.telling(stage)()


def test_table():
    trials = [full_disk.Trial(0, True), full_disk.Trial(1, False), full_disk.Trial(2, True, "other")]
    assert full_disk.table({"it": trials})[2:] == ["| it | 3 | 2 | 1 | 1 |", "| all | 3 | 2 | 1 | 1 |"]
