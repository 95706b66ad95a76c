"""Whose files are believed by size and date, and whose are read."""

import os

import pytest

from scoreonce.stages.common import digests
from scoreonce.stages.common.files import sha256


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """A file that was hashed by another process, and has changed since without a new size or date."""
    monkeypatch.setattr(digests, "_read", {})
    path = tmp_path / "weights"
    path.write_bytes(b"before")
    os.utime(path, ns=(10**18, 10**18))
    assert digests.file_digests([path]) == digests.digests_now([path])
    path.write_bytes(b"behind")
    os.utime(path, ns=(10**18, 10**18))
    monkeypatch.setattr(digests, "_read", {})
    return path


def test_a_model_of_the_same_size_and_date_is_believed_unless_asked_otherwise(changed, monkeypatch):
    assert digests.file_digests([changed]) != [sha256(changed)]
    monkeypatch.setattr(digests, "rehash", True)
    assert digests.file_digests([changed]) == [sha256(changed)]
    monkeypatch.setattr(digests, "rehash", False)
    assert digests.file_digests([changed]) == [sha256(changed)]  # what was found then is remembered


def test_what_a_run_wrote_is_read_by_every_process(changed):
    assert digests.digests_now([changed]) == [sha256(changed)]


def test_a_process_reads_a_file_once_while_it_stays_the_same(changed, monkeypatch):
    read = []
    monkeypatch.setattr(digests, "sha256", lambda path: (read.append(path), sha256(path))[1])
    assert digests.digests_now([changed, changed]) == digests.digests_now([changed]) * 2
    assert len(read) == 1
    changed.write_bytes(b"after")
    digests.digests_now([changed])
    assert len(read) == 2


def test_a_hub_file_is_not_believed_by_its_name_with_rehash(tmp_path, monkeypatch):
    blob = tmp_path / "blobs" / ("a" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"other contents")
    (tmp_path / "model.safetensors").symlink_to(blob)
    assert digests.file_digests([tmp_path / "model.safetensors"]) == ["a" * 64]
    monkeypatch.setattr(digests, "rehash", True)
    assert digests.file_digests([tmp_path / "model.safetensors"]) == [sha256(blob)]
