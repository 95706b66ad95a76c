"""How two writers, missing permission and a turned clock are made, and how what comes of them is judged."""

import os
import subprocess
import sys
import time
from pathlib import Path

import adverse
import full_disk
import kills
import pytest

from scoreonce.stages.common import locking

NEEDS_ROOT = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux")


def writes():
    Path("a").write_text(Path("given").read_text())
    return "done"


def writes_once():
    """What two of them do at once differs from what one does."""
    Path("a").touch(exist_ok=False)
    time.sleep(0.05)
    return "done"


def hides_what_is_wrong():
    try:
        return writes()
    except OSError:
        return "done"


def dates():
    """The moment in hours, twice: the second look shows an earlier one."""
    first, second = (adverse.locking.datetime.now() for _ in range(2))
    first_seconds, second_seconds = (adverse.digests.time.time() for _ in range(2))
    Path("a").write_text("x")
    return "earlier" if second < first and second_seconds < first_seconds else "later"


def stage_of(run, tmp_path, digest="done"):
    before = tmp_path / "before"
    before.mkdir()
    (before / "given").write_text("x")
    return kills.Stage("it", run, before, digest, frozenset({"a", "given"}), 1, 0.1)


def test_two_of_a_stage_at_once(tmp_path):
    assert adverse.two_at_once(stage_of(writes, tmp_path), tmp_path / "copy") == ["", ""]


def test_two_that_get_in_each_others_way(tmp_path):
    problems = adverse.two_at_once(stage_of(writes_once, tmp_path), tmp_path / "copy")
    assert all("it failed" in problem for problem in problems)


@NEEDS_ROOT
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_files_of_another_user(tmp_path, mode):
    """An ordinary user may not write there, with 0700 not read either; root could do both."""
    befall = adverse.another_user(mode)
    assert befall(stage_of(writes, tmp_path), tmp_path / "copy") == [""]
    (problem,) = befall(
        kills.Stage("it", hides_what_is_wrong, tmp_path / "before", "done", frozenset(), 1, 0.1), tmp_path / "other"
    )
    assert "not said" in problem


@NEEDS_ROOT
def test_a_read_only_file_system(tmp_path):
    try:
        with full_disk.disk(tmp_path / "disk", full_disk.PAGE):
            pass
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")
    assert adverse.read_only(stage_of(writes, tmp_path), tmp_path / "copy") == [""]


def test_a_clock_that_goes_backwards(tmp_path):
    assert adverse.clock_backwards(stage_of(dates, tmp_path, "earlier"), tmp_path / "copy") == [""]
    assert locking.datetime.__name__ == "datetime", "only the child's clock is turned"


def test_table():
    cases = {name: ["", "other"] for name in adverse.CASES}
    assert adverse.table({"it": cases})[2] == "| it |" + " 1 of 2 |" * len(adverse.CASES)
