"""A folder at an address: what passes is tried again, what lasts is said, and half an object is never taken for one."""

import errno

import fsspec.core
import pytest
from object_store import Clock, faulty_folder, first

from scoreonce.schemas.errors import InputError
from scoreonce.stages.remote.errors import without_secrets
from scoreonce.stages.remote.folder import HalfObjectError, RemoteFile, RemoteFolder, age
from scoreonce.stages.remote.retries import may_pass


@pytest.fixture
def bucket(tmp_path):
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


def test_a_request_is_tried_six_times_with_growing_pauses():
    clock, calls = Clock(), []

    def fails():
        calls.append(1)
        raise TimeoutError("slow")

    with pytest.raises(TimeoutError):
        clock.retries()(fails)
    assert len(calls) == 6 == clock.retries().tries
    assert clock.pauses == [1, 2, 4, 8, 16]
    assert clock.slept != clock.pauses  # with something random beside


def test_ctrl_c_is_not_tried_again():
    clock = Clock()
    with pytest.raises(KeyboardInterrupt):
        clock.retries()(lambda: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert clock.slept == []


def test_what_lasts_is_not_tried_again():
    clock = Clock()
    tried = InputError("tried", found="", where="", fix="")
    for error in (FileNotFoundError(), PermissionError(), TypeError(), OSError(errno.ENOSPC, "full"), tried):
        assert not may_pass(error)
        with pytest.raises(type(error)):
            clock.retries()(lambda error=error: (_ for _ in ()).throw(error))
    assert clock.slept == []
    lacking = type("NoCredentialsError", (Exception,), {})
    assert not may_pass(lacking())
    assert may_pass(OSError(errno.EIO, "input/output error"))
    assert may_pass(Exception("some client's own"))


@pytest.mark.parametrize("wrong", ["error", "half", "half then error"])
def test_a_transfer_that_goes_wrong_is_made_again(bucket, tmp_path, wrong):
    (tmp_path / "x").write_bytes(b"0123456789")
    folder, _, clock = faulty_folder(bucket, first(2, "put", wrong))
    folder.upload(tmp_path / "x", "a/x")
    assert (bucket / "a" / "x").read_bytes() == b"0123456789"
    folder, _, _ = faulty_folder(bucket, first(2, "get", wrong))
    folder.download("a/x", tmp_path / "y", size=10)
    assert (tmp_path / "y").read_bytes() == b"0123456789"
    assert clock.pauses == [1, 2]


def test_half_an_object_that_stays_half_is_an_error(bucket, tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    folder, system, clock = faulty_folder(bucket, first(99, "put", "half"))
    with pytest.raises(InputError) as raised:
        folder.upload(tmp_path / "x", "x")
    assert raised.value.what == "An address cannot be written."
    assert raised.value.found == "5 bytes arrived of 10 (the last of 6 tries)"
    assert raised.value.where == "s3://bucket/bucket/x"
    assert "run the same command again" in raised.value.fix
    assert (system.done["put"], len(clock.slept)) == (6, 5)


def test_a_service_that_is_away_is_said_in_four_parts(bucket):
    folder, system, _ = faulty_folder(bucket, first(99, "find"))
    with pytest.raises(InputError) as raised:
        folder.files()
    assert raised.value.what == "An address cannot be listed."
    assert raised.value.found == "503 slow down, secret find (the last of 6 tries)"
    assert system.done["find"] == 6


def test_names_are_relative_and_a_file_has_none(bucket):
    (bucket / "a").mkdir()
    (bucket / "a" / "x.json").write_bytes(b"12345")
    folder, system, clock = faulty_folder(bucket)
    assert {name: file.size for name, file in folder.files().items()} == {"a/x.json": 5}
    assert list(folder.below("a").files()) == ["x.json"]
    assert folder.below("b").files() == {}
    one = RemoteFolder("s3://bucket/x.json", system, str(bucket / "a" / "x.json"), clock.retries())
    assert list(one.files()) == [""]
    assert (folder.exists("a/x.json"), folder.exists("a/y.json")) == (True, False)
    folder.remove("a/x.json")
    folder.remove("a/x.json")
    assert folder.files() == {}


def test_a_file_of_which_a_listing_knows_the_name_alone(monkeypatch):
    """As fsspec's own `find` lists it, where the file system of a service has none."""
    system = fsspec.filesystem("memory", skip_instance_cache=True)
    system.pipe("/data/x.json", b"12345")
    monkeypatch.setattr(system, "find", lambda path, **_: {path: {}})
    one = RemoteFolder("memory://data/x.json", system, "/data/x.json", Clock().retries())
    assert {name: file.size for name, file in one.files().items()} == {"": 5}


def test_what_is_gone_is_told_from_what_cannot_be_reached(bucket, tmp_path):
    folder, _, clock = faulty_folder(bucket)
    with pytest.raises(FileNotFoundError):
        folder.download("x", tmp_path / "y")
    assert clock.slept == []


def test_a_full_disk_is_no_fault_of_the_address(bucket, tmp_path, monkeypatch):
    folder, system, _ = faulty_folder(bucket)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(system, "get_file", full)
    with pytest.raises(OSError, match="No space left"):
        folder.download("x", tmp_path / "y")


def test_the_age_of_a_file():
    assert age(RemoteFile(1, None, 100.0), lambda: 160.0) == 60
    assert age(RemoteFile(1, None, 200.0), lambda: 160.0) == 0
    assert age(RemoteFile(1, None, None), lambda: 160.0) == 0


def test_no_message_holds_credentials(bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("SOME_TOKEN", "1")  # too short to be one; it would be replaced everywhere
    assert without_secrets("denied wJalrXUtnFEMI 10") == "denied *** 10"
    assert without_secrets("https://me:pw@host/x?X-Amz-Signature=ab&Y=1 failed") == "https://***@host/x?*** failed"
    folder, system, _ = faulty_folder(bucket)

    def refused(*_, **__):
        raise PermissionError("key wJalrXUtnFEMI may not GET https://h/x?X-Amz-Credential=zz")

    monkeypatch.setattr(system, "get_file", refused)
    with pytest.raises(InputError) as raised:
        folder.download("x", tmp_path / "y")
    assert raised.value.found == "key *** may not GET https://h/x?***"
    assert "AWS_PROFILE" in raised.value.fix
    assert raised.value.__cause__ is None  # whose text would be in a traceback
    assert raised.value.__suppress_context__


def test_a_package_that_is_missing_is_named(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(InputError) as raised:
        RemoteFolder.open("s3://bucket/x")
    assert raised.value.what == "Addresses that begin with s3:// need the package s3fs."
    assert raised.value.fix == "Install it: pip install 'scoreonce[s3]'."


def test_half_an_object_is_an_error_that_may_pass():
    assert may_pass(HalfObjectError("half"))
