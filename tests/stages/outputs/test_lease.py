"""One machine at a time writes a unit, as far as the service keeps the condition that an object is new."""

import os
import time
from contextlib import ExitStack

import pytest
from object_store import faulty_folder

from scoreonce.schemas.errors import InputError
from scoreonce.stages.outputs import lease as leases
from scoreonce.stages.outputs.lease import STALE, Lease
from scoreonce.stages.outputs.unit_copy import SupersededError


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The remote folder, and where its leases of one unit lie."""
    monkeypatch.setattr(leases, "_keeps_conditions", {})
    remote, _, _ = faulty_folder(tmp_path / "bucket")
    return remote, tmp_path / "bucket" / leases.FOLDER / "train/dpo"


def lease(bucket, copy="one"):
    return Lease(bucket[0], "train/dpo", copy)


def held(bucket, copy="one", timeout=0.0, sleep=None):
    return lease(bucket, copy).held("train/dpo at s3://bucket", timeout=timeout, sleep=sleep or (lambda seconds: None))


def made_old(path):
    old = time.time() - STALE - 10
    os.utime(path, (old, old))


def test_a_second_machine_is_told_who_writes_and_has_it_afterwards(bucket):
    with held(bucket) as mine:
        mine.require_held()
        with pytest.raises(InputError) as raised, held(bucket, "two"):
            pass
        assert raised.value.what == "Train/dpo at s3://bucket is in use by another machine."
        assert f"process {os.getpid()} on " in raised.value.found
    assert list(bucket[1].iterdir()) == []
    with held(bucket, "two") as theirs:
        theirs.require_held()


def test_who_waits_has_it_when_it_is_free(bucket, capsys):
    pauses = []
    with ExitStack() as first:
        first.enter_context(held(bucket))

        def sleep(seconds):
            pauses.append(seconds)
            first.close()

        with held(bucket, "two", timeout=None, sleep=sleep) as mine:
            mine.require_held()
    assert pauses == [leases.POLL]
    assert capsys.readouterr().err.count("waiting: train/dpo at s3://bucket is in use by process") == 1


def test_the_lease_of_a_killed_command_is_superseded_and_its_owner_is_told(bucket):
    with held(bucket) as mine:
        made_old(bucket[1] / "000001.json")
        with held(bucket, "two") as theirs:
            theirs.require_held()
            assert [path.name for path in bucket[1].iterdir()] == ["000002.json"]
            with pytest.raises(SupersededError) as raised:
                mine.require_held()
            assert f"process {os.getpid()}" in raised.value.found


def test_a_command_on_the_same_copy_does_not_wait_for_its_killed_one(bucket):
    """Its lock says that the other has ended."""
    with held(bucket), held(bucket) as mine:
        mine.require_held()


def test_of_two_that_find_a_dead_lease_one_has_it(bucket):
    """The second finds the lease of the first, which began between its look and its own."""
    with held(bucket, "dead"):
        made_old(bucket[1] / "000001.json")
        second = lease(bucket, "two")
        seen = second._leases()
        with held(bucket, "three") as theirs:
            assert not second._take(seen)
            theirs.require_held()


def test_a_lease_that_came_back_to_life_is_left(bucket):
    with held(bucket) as mine:
        made_old(bucket[1] / "000001.json")
        second = lease(bucket, "two")
        seen = second._leases()
        os.utime(bucket[1] / "000001.json")
        assert not second._take(seen)
        mine.require_held()


def test_a_service_that_replaces_what_was_to_be_new_is_named(bucket, monkeypatch, capsys):
    remote = bucket[0]

    def create(self, name, contents):
        self.write(name, contents)
        return True

    monkeypatch.setattr(type(remote), "create", create)
    with held(bucket) as mine:
        mine.require_held()
        assert "are not kept apart" in capsys.readouterr().err
        with pytest.raises(InputError, match="in use by another machine"), held(bucket, "two"):
            pass


def test_the_lease_is_written_again_while_it_is_held(bucket, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.01)
    with held(bucket):
        made_old(bucket[1] / "000001.json")
        deadline = time.monotonic() + 30
        while time.time() - (bucket[1] / "000001.json").stat().st_mtime > STALE:
            assert time.monotonic() < deadline
    assert list(bucket[1].iterdir()) == []
