"""A store at an address, seen from several machines: nothing lost, nothing doubled, and no half object believed."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from object_store import FaultyFileSystem, first

from scoreonce.pipeline.head.log_probs import Head
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.remote import retries
from scoreonce.stages.remote.folder import RemoteFile, RemoteFolder
from scoreonce.stages.store import mirror
from scoreonce.stages.store.codecs import TensorBlock
from scoreonce.stages.store.identity import StoreIdentity
from scoreonce.stages.store.index import packed
from scoreonce.stages.store.store import ReferenceStore
from scoreonce.stages.store.tensor_rows import TensorRows

IDENTITY = StoreIdentity("w" * 64, "float32")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The bucket behind s3://bucket, a local folder; `bucket.system` is where things can go wrong."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    system, slept = FaultyFileSystem(), []
    monkeypatch.setattr(retries, "DEFAULT", retries.Retries(sleep=slept.append))
    monkeypatch.setattr(
        RemoteFolder, "open", lambda at: RemoteFolder(at, system, at.replace("s3://bucket", str(folder)))
    )

    class Bucket:
        def __init__(self):
            self.folder, self.system, self.slept = folder / "scores" / IDENTITY.key, system, slept

        def machine(self, name):
            return ReferenceStore(tmp_path / name, IDENTITY, "tiny", address="s3://bucket/scores")

        def names(self, layer="shards"):
            return sorted(path.name for path in (self.folder / layer).iterdir())

    return Bucket()


def ids(start, stop):
    return [f"{number:032x}" for number in range(start, stop)]


def write(store, *ranges, table):
    with store.writing():
        store.pull()
        store.publish_rest()
        return [store.append(table(ids(*bounds)), {"device": "cpu"}) for bounds in ranges]


@pytest.fixture
def table():
    def made(names):
        return pa.table(
            {
                "completion_id": pa.array(names, pa.string()),
                "token_logps": pa.array([[-0.5, -float(int(name, 16))] for name in names], pa.list_(pa.float32())),
                "logps": pa.array([-0.5 - int(name, 16) for name in names], pa.float64()),
                "completion_len": pa.array([2] * len(names), pa.int32()),
                "entropy": pa.array([1.0] * len(names), pa.float64()),
                "collision_logps": pa.array([-1.0] * len(names), pa.float64()),
                "top1_hits": pa.array([1] * len(names), pa.int32()),
            }
        )

    return made


def stored(store):
    return sorted(store.ids())


def test_what_one_machine_writes_another_reads(bucket, table):
    one, two = bucket.machine("one"), bucket.machine("two")
    (path,) = write(one, (0, 5), table=table)
    assert bucket.names() == sorted([path.name, path.with_suffix(".json").name])
    assert sorted(each.name for each in bucket.folder.iterdir()) == ["identity.json", "shards"]
    assert stored(two) == ids(0, 5)
    assert two.read(pl.Series(ids(3, 5)), ["logps"])["logps"].sort().to_list() == [-4.5, -3.5]
    assert (two.folder / "shards" / path.name).read_bytes() == path.read_bytes()
    assert ReferenceStore.at(two.folder).model == "tiny"  # the identity came with them
    write(two, (5, 8), table=table)
    assert stored(bucket.machine("one")) == ids(0, 8)
    # The identity was looked for, fetched and looked at; two shards were fetched, each with its sidecar.
    assert bucket.system.done["get"] == 3 + 2 * 2


def test_a_file_comes_first_and_its_sidecar_last(bucket, table, monkeypatch):
    put = []
    monkeypatch.setattr(
        bucket.system, "fault", lambda done, path: put.append(Path(path).name) if done == "put" else None
    )
    (path,) = write(bucket.machine("one"), (0, 5), table=table)
    assert put == ["identity.json", path.name, path.with_suffix(".json").name]


@pytest.mark.parametrize(
    ("operation", "wrong"),
    [
        ("find", "error"),
        ("info", "error"),
        *((operation, wrong) for operation in ("put", "get") for wrong in ("error", "half", "half then error")),
    ],
)
def test_what_passes_changes_nothing(bucket, table, operation, wrong):
    bucket.system.fault = first(3, operation, wrong)
    write(bucket.machine("one"), (0, 5), (5, 9), table=table)
    bucket.system.fault = first(2, operation, wrong)
    assert stored(bucket.machine("two")) == ids(0, 9)
    assert len(bucket.names()) == 4
    assert bucket.slept


@pytest.mark.parametrize("wrong", ["error", "half", "half then error"])
@pytest.mark.parametrize("ending", [".parquet", ".json"])
def test_what_cannot_be_published_is_kept_and_published_by_the_next_command(bucket, table, wrong, ending, caplog):
    one = bucket.machine("one")
    write(one, (0, 2), table=table)
    bucket.system.fault = lambda done, path: wrong if done == "put" and path.endswith(ending) else None
    with pytest.raises(InputError) as raised:
        write(one, (2, 5), table=table)
    error = raised.value
    assert error.what == "The reference store cannot be written at its address."
    assert "(the last of 6 tries)" in error.found
    assert error.where.startswith(f"s3://bucket/scores/{IDENTITY.key}/shards/")
    assert f"What was scored is kept in {one.folder}, and published then." in error.fix
    assert stored(bucket.machine("two")) == ids(0, 2)  # half of it may be there, and is not believed
    bucket.system.fault = lambda done, path: None
    again = bucket.machine("one")
    assert again.holds(pl.Series(ids(0, 5))).all()  # not to be scored again
    assert [path.suffix for path in again.mirror.unpublished()] == [".parquet"]
    write(again, table=table)
    assert again.mirror.unpublished() == []
    assert stored(bucket.machine("two")) == stored(bucket.machine("three")) == ids(0, 5)
    assert len(bucket.names()) == 4  # each of two files once


def test_killed_between_file_and_sidecar(bucket, table, monkeypatch):
    one = bucket.machine("one")

    def killed(done, path):
        if done == "put" and "shards" in path and path.endswith(".json"):
            raise KeyboardInterrupt

    bucket.system.fault = killed
    with pytest.raises(KeyboardInterrupt):
        write(one, (0, 5), table=table)
    bucket.system.fault = lambda done, path: None
    assert [Path(name).suffix for name in bucket.names()] == [".parquet"]
    assert stored(bucket.machine("two")) == []
    write(bucket.machine("one"), table=table)
    assert stored(bucket.machine("two")) == ids(0, 5)
    assert len(bucket.names()) == 2


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)


@pytest.mark.parametrize(("damage", "reason"), [(cut, "bytes where"), (flip, "SHA-256"), (Path.unlink, "file is gone")])
def test_a_damaged_object_is_named_and_not_believed(bucket, table, damage, reason, caplog):
    bad, _ = write(bucket.machine("one"), (0, 5), (5, 9), table=table)
    damage(bucket.folder / "shards" / bad.name)
    two = bucket.machine("two")
    assert stored(two) == ids(5, 9)
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith(f"not used: s3://bucket/scores/{IDENTITY.key}/shards/{bad.name}: ")
    assert reason in said
    assert two.scores.damage() == []  # nothing of it is in the copy
    write(two, (0, 5), table=table)
    assert stored(bucket.machine("three")) == ids(0, 9)


def test_a_damaged_sidecar_is_not_believed(bucket, table, caplog):
    bad, _ = write(bucket.machine("one"), (0, 5), (5, 9), table=table)
    sidecar = bucket.folder / "shards" / bad.with_suffix(".json").name
    sidecar.write_text(sidecar.read_text().replace('"rows": 5', '"rows": 6'))
    assert stored(bucket.machine("two")) == ids(5, 9)
    assert "the sidecar cannot be read" in caplog.text


def test_what_is_half_at_first_is_read_again(bucket, table):
    write(bucket.machine("one"), (0, 5), table=table)
    bucket.system.fault = first(1, "get", "half", ".parquet")
    assert stored(bucket.machine("two")) == ids(0, 5)


def test_a_late_listing_loses_nothing(bucket, table):
    """What is not listed yet is not seen by others, and stays with who wrote it."""
    one = bucket.machine("one")
    first_, second = write(one, (0, 5), (5, 9), table=table)
    bucket.system.hidden = {second.with_suffix(".json").name, second.name}
    assert stored(bucket.machine("two")) == ids(0, 5)
    assert stored(bucket.machine("one")) == ids(0, 9)
    puts = bucket.system.done["put"]
    write(bucket.machine("one"), table=table)
    assert bucket.system.done["put"] == puts
    bucket.system.hidden = {second.name}  # the sidecar is listed before the file that it vouches for
    assert stored(bucket.machine("two")) == ids(0, 9)
    assert first_.exists()


def test_a_listing_that_has_what_is_gone(bucket, table, monkeypatch, caplog):
    (path,) = write(bucket.machine("one"), (0, 5), table=table)
    listed = RemoteFolder.files

    def late(self):
        found = listed(self)
        for each in (path, path.with_suffix(".json")):
            (bucket.folder / "shards" / each.name).unlink(missing_ok=True)
        return found

    monkeypatch.setattr(RemoteFolder, "files", late)
    assert stored(bucket.machine("two")) == []
    assert "not used" not in caplog.text


def test_what_was_removed_is_removed_from_copies_and_not_published_again(bucket, table):
    old, _ = write(bucket.machine("one"), (0, 5), (5, 9), table=table)
    assert stored(bucket.machine("two")) == ids(0, 9)
    for each in (old.with_suffix(".json"), old):
        (bucket.folder / "shards" / each.name).unlink()
    for name in ("one", "two"):
        store = bucket.machine(name)
        write(store, table=table)
        assert stored(store) == ids(5, 9)
    assert len(bucket.names()) == 2


def test_what_was_published_by_a_killed_process_is_not_published_again(bucket, table):
    (path,) = write(bucket.machine("one"), (0, 5), table=table)
    (path.parents[1] / "published" / "shards" / path.name).unlink()
    puts = bucket.system.done["put"]
    write(bucket.machine("one"), table=table)
    assert bucket.system.done["put"] == puts


def test_a_damaged_copy_is_fetched_again(bucket, table):
    (path,) = write(bucket.machine("one"), (0, 5), table=table)
    flip(path)
    one = bucket.machine("one")
    with one.writing():
        assert len(one.set_aside_damaged()) == 1
        one.pull()
    assert stored(one) == ids(0, 5)


def test_what_a_killed_process_was_fetching_is_removed(bucket, table):
    write(bucket.machine("one"), (0, 5), table=table)
    left = bucket.machine("two").folder / "incoming" / "0123456789"
    left.mkdir(parents=True)
    (left / "x.parquet").write_bytes(b"half")
    assert stored(bucket.machine("two")) == ids(0, 5)
    assert not left.exists()


def block(names):
    tokens = torch.arange(2.0 * len(names))[:, None]
    return TensorBlock(packed(names), np.full(len(names), 2), {"hidden": tokens})


def test_every_kind_of_layer_is_one_at_an_address():
    made = ["pooled", "topk-tail-8", "hidden-int8", "shards", "hidden", "topk-8"]
    listed = {f"{name}/a.json": RemoteFile(1, None, None) for name in [*made, "damaged", "index", "topk-tail-x"]}
    assert mirror.layers_in(listed) == ["shards", "hidden", "hidden-int8", "pooled", "topk-8", "topk-tail-8"]


def test_hidden_states_and_their_head(bucket, table, caplog):
    one = bucket.machine("one")
    head = Head(torch.ones(3, 1), None, 1.0, None)
    with one.writing():
        one.head("hidden").write(head)
        one.tensors("hidden").append(block(ids(0, 3)), {})
    assert bucket.names("hidden")[-2:] == ["head.json", "head.safetensors"]
    two = bucket.machine("two")
    assert TensorRows(two.tensors("hidden")).read(ids(1, 2), "hidden").flatten().tolist() == [2.0, 3.0]
    assert two.head("hidden").read(torch.device("cpu")).weight.tolist() == [[1.0]] * 3
    flip(bucket.folder / "hidden" / "head.safetensors")
    three = bucket.machine("three")
    three.pull(["hidden"])
    assert not three.head("hidden").exists()
    assert "head.safetensors" in caplog.text
    three.head("hidden").write(head)
    assert bucket.machine("four").tensors("hidden").sound_index().holds(packed(ids(0, 3))).all()
    four = bucket.machine("four")
    four.pull(["hidden"])
    assert four.head("hidden").read(torch.device("cpu")).weight.tolist() == [[1.0]] * 3


def test_a_damaged_identity_is_written_again(bucket, table):
    write(bucket.machine("one"), (0, 5), table=table)
    (bucket.folder / "identity.json").write_text("{")
    two = bucket.machine("two")
    write(two, table=table)
    assert json.loads((bucket.folder / "identity.json").read_text())["model"] == "tiny"


def test_by_the_key_in_a_manifest(bucket, table, tmp_path):
    write(bucket.machine("one"), (0, 5), table=table)
    paths = RunPaths(tmp_path / "out", tmp_path / "five", "dpo", "s3://bucket/scores")
    assert stored(ReferenceStore.of_key(paths, IDENTITY.key)) == ids(0, 5)
    with pytest.raises(InputError, match="does not say what it holds"):
        ReferenceStore.of_key(paths, "0" * 32)


def test_names_that_lead_elsewhere_are_passed_over(bucket, table, tmp_path):
    write(bucket.machine("one"), (0, 5), table=table)
    (bucket.folder / "shards" / ".hidden.json").write_text("{}")
    (bucket.folder / "elsewhere").mkdir()
    (bucket.folder / "elsewhere" / "x.json").write_text("{}")
    two = bucket.machine("two")
    assert stored(two) == ids(0, 5)
    assert sorted(path.name for path in two.folder.iterdir() if path.is_dir()) == [
        "incoming",
        "index",
        "published",
        "shards",
    ]
