"""Data at an address: fetched once, again when they change, and never half."""

import json
import os

import pytest
from object_store import FaultyFileSystem, first

from scoreonce.schemas.errors import InputError
from scoreonce.stages.raw.raw_data import is_one_file, local_inputs, open_data
from scoreonce.stages.remote import folder as remote_folder
from scoreonce.stages.remote import retries
from scoreonce.stages.remote.folder import RemoteFolder

ROWS = [{"prompt": f"p{number}", "chosen": "a", "rejected": "b"} for number in range(7)]


def lines(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


@pytest.fixture
def system(monkeypatch):
    """Every address is a path on a file system in which things can go wrong."""
    made = FaultyFileSystem()

    def opened(address):
        return RemoteFolder(address, made, address.removeprefix("file://"))

    monkeypatch.setattr(RemoteFolder, "open", opened)
    slept = []
    monkeypatch.setattr(retries, "DEFAULT", retries.Retries(sleep=slept.append))
    made.slept = slept
    return made


def read(address, split="train"):
    data = open_data(address, subset=None, split=split)
    return data, [row for batch in data.batches(None) for row in batch]


def test_a_file_is_read_as_a_local_one_and_fetched_once(tmp_path, system):
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(ROWS))
    address = f"file://{path}"
    data, rows = read(address)
    assert rows == ROWS
    local = open_data(str(path), subset=None, split="train")
    assert list(data.inputs) == [address]
    assert data.inputs[address].sha256 == local.inputs[str(path)].sha256
    assert data.rows == 7
    read(address)
    assert system.done["get"] == 1


def test_a_file_that_changed_is_fetched_again(tmp_path, system):
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(ROWS))
    address = f"file://{path}"
    before = read(address)[0].inputs[address].sha256
    changed = [{**ROWS[0], "chosen": "c"}, *ROWS[1:]]  # as many bytes
    path.write_text(lines(changed))
    os.utime(path, (1, 1))
    data, rows = read(address)
    assert rows == changed
    assert data.inputs[address].sha256 != before


def test_only_the_files_of_the_split_are_fetched(tmp_path, system):
    folder = tmp_path / "set"
    (folder / "more").mkdir(parents=True)
    for name, rows in {"train-0.jsonl": ROWS[:2], "more/train-1.jsonl": ROWS[2:4], "test-0.jsonl": ROWS[4:]}.items():
        (folder / name).write_text(lines(rows))
    (folder / "README.md").write_text("no data")
    data, rows = read(f"file://{folder}")
    assert rows == [*ROWS[2:4], *ROWS[:2]]  # sorted by name, as a local folder is
    assert rows == [row for batch in open_data(str(folder), subset=None, split="train").batches(None) for row in batch]
    assert list(data.inputs) == [f"file://{folder}/more/train-1.jsonl", f"file://{folder}/train-0.jsonl"]
    assert system.done["get"] == 2
    assert read(f"file://{folder}", None)[1] == ROWS[4:]
    with pytest.raises(InputError, match=r"no split 'dev'(?s:.*)where: file://"):
        read(f"file://{folder}", "dev")


@pytest.mark.parametrize("wrong", ["error", "half", "half then error"])
def test_what_passes_is_not_noticed(tmp_path, system, wrong):
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(ROWS))
    system.fault = first(3, "get", wrong)
    assert read(f"file://{path}")[1] == ROWS
    assert len(system.slept) == 3


def test_half_a_file_is_never_read(tmp_path, system):
    """The transfer fails for good; the next command finds no half file and fetches all of it."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(ROWS))
    system.fault = first(6, "get", "half")
    with pytest.raises(InputError, match="An address cannot be read"):
        read(f"file://{path}")
    assert [found.name for found in (tmp_path / "cache").rglob("*pairs*") if found.is_file()] == []
    assert read(f"file://{path}")[1] == ROWS


def test_a_copy_that_was_cut_is_fetched_again(tmp_path, system):
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(ROWS))
    read(f"file://{path}")
    (copy,) = (tmp_path / "cache").rglob("pairs.jsonl")
    copy.write_text(lines(ROWS[:3]))
    assert read(f"file://{path}")[1] == ROWS


def test_without_a_version_it_is_fetched_each_time(tmp_path, system, monkeypatch):
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(ROWS))
    monkeypatch.setattr(remote_folder, "_DATES", ())
    for _ in range(2):
        assert read(f"file://{path}")[1] == ROWS
    assert system.done["get"] == 2


def test_what_is_not_there(tmp_path, system):
    with pytest.raises(InputError) as raised:
        read(f"file://{tmp_path}/none.jsonl")
    assert raised.value.what == "There is nothing at an address."
    assert raised.value.where == f"file://{tmp_path}/none.jsonl"
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="has one that cannot be read"):
        read(f"file://{tmp_path}/notes.txt")


def test_a_name_that_leads_out_is_never_fetched(tmp_path, system, monkeypatch):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "x.jsonl").write_text(lines(ROWS))
    found = FaultyFileSystem.find

    def hostile(self, path, **options):
        return {
            name.replace("x.jsonl", "../../../x.jsonl"): info for name, info in found(self, path, **options).items()
        }

    monkeypatch.setattr(FaultyFileSystem, "find", hostile)
    with pytest.raises(InputError, match="1 files, none of them data"):
        read(f"file://{tmp_path}/set")
    assert system.done["get"] == 0


def test_later_stages_do_not_ask_the_address(tmp_path, system):
    assert local_inputs(f"file://{tmp_path}/x.jsonl", "train") is None
    assert system.done["find"] == 0


def test_a_file_has_no_splits():
    assert is_one_file("s3://bucket/pairs.jsonl.gz")
    assert is_one_file("s3://bucket/pairs.parquet")
    assert not is_one_file("s3://bucket/pairs")
