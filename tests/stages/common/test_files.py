"""Files appear whole or not at all."""

import errno
from types import SimpleNamespace

import pytest

from scoreonce.stages.common import files


@pytest.fixture
def disk(monkeypatch):
    """A disk with as many free bytes as a test says."""
    usage = SimpleNamespace(free=1 << 30)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    return usage


@pytest.mark.parametrize(("free", "raised"), [(0, OSError), (files.FULL - 1, OSError), (files.FULL, ValueError)])
def test_a_full_disk_is_told_whatever_a_library_says(tmp_path, disk, free, raised):
    disk.free = free
    with pytest.raises(raised) as caught, files.atomic(tmp_path / "a") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ValueError("File out of specification")
    if raised is OSError:
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(tmp_path / "a")
        assert str(caught.value.__cause__) == "File out of specification"
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_system_is_told_as_it_is(tmp_path, disk):
    disk.free = 0
    with pytest.raises(PermissionError), files.atomic(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_two_processes_of_the_same_number_write_to_files_of_their_own(tmp_path):
    """On two machines, or in two containers, where numbers are small."""
    with files.atomic(tmp_path / "a") as one, files.atomic(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
        assert one.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "one"
