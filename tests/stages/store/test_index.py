"""The index: against a dictionary, by file and row; a cache that is made again wherever it cannot be trusted."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from scoreonce.stages.store import index as module
from scoreonce.stages.store.identity import StoreIdentity
from scoreonce.stages.store.index import Index, IndexedFile, packed, unpacked
from scoreonce.stages.store.sidecar import Stamp
from scoreonce.stages.store.store import ReferenceStore

STAMP = Stamp(1, 2, 3, 4)


def name(number: int) -> str:
    """A digest; every tenth ends, and every eleventh begins, with zero bytes."""
    digest = hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()
    digest = digest[:24] + "0" * 8 if number % 10 == 0 else digest
    return "0" * 20 + digest[20:] if number % 11 == 0 else digest


def table(names: list[str]) -> pa.Table:
    count = len(names)
    return pa.table(
        {
            "completion_id": pa.array(names, pa.string()),
            "token_logps": pa.array([[-float(len(names))]] * count, pa.list_(pa.float32())),
            "logps": pa.array(range(count), pa.float64()),
            "completion_len": pa.array([1] * count, pa.int32()),
            "entropy": pa.array([1.0] * count, pa.float64()),
            "collision_logps": pa.array([-1.0] * count, pa.float64()),
            "top1_hits": pa.array([1] * count, pa.int32()),
        }
    )


def test_packing_is_undone():
    names = [name(number) for number in range(40)]
    assert unpacked(packed(names)) == names
    assert packed([]).shape == (0,)


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_every_id_is_found_where_it_stands(monkeypatch, chunk):
    """Files of 1 to 30 random ids, one id in two of them, merged in three steps; then two files leave."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    random = np.random.default_rng(0)
    contents = [[name(int(n)) for n in random.choice(500, random.integers(1, 30), False)] for _ in range(9)]
    index = Index.empty()
    for step in range(0, 9, 3):
        files = [IndexedFile(f"f{n}", len(contents[n]), STAMP) for n in range(step, step + 3)]
        index = index.merged(files, packed([i for n in range(step, step + 3) for i in contents[n]]))
    index = index.without({"f1", "f7"})
    left = [n for n in range(9) if n not in (1, 7)]
    assert [file.name for file in index.files] == [f"f{n}" for n in left]
    everything = {id_: [(k, contents[n].index(id_)) for k, n in enumerate(left) if id_ in contents[n]] for id_ in
                  map(name, range(500))}  # fmt: skip
    assert max(map(len, everything.values())) > 1
    found, file, row = index.locate(packed(everything))
    for places, *at in zip(everything.values(), found.tolist(), file.tolist(), row.tolist(), strict=True):
        assert at[0] == bool(places)
        assert not places or (at[1], at[2]) == places[0]  # the oldest file's
    assert index.holds(packed(everything)).tolist() == found.tolist()
    assert unpacked(index.ids) == sorted(unpacked(index.ids))


def test_an_empty_index_holds_nothing():
    assert Index.empty().holds(packed([name(1)])).tolist() == [False]
    assert Index.empty().locate(packed([name(1)])).found.tolist() == [False]
    assert Index.empty().merged([IndexedFile("f", 1, STAMP)], packed([name(1)])).without({"f"}).ids.shape == (0,)


@pytest.fixture
def filled(tmp_path) -> Path:
    """Three shards of ten completions, and their index."""
    store = ReferenceStore(tmp_path, StoreIdentity("w" * 64, "float32"), "tiny")
    with store.writing():
        for start in (0, 10, 20):
            store.append(table([name(n) for n in range(start, start + 10)]), {})
    assert len(store.ids()) == 30
    return store.folder


def opened(folder: Path) -> ReferenceStore:
    """The store as another process opens it."""
    return ReferenceStore.at(folder)


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files whose contents are checked."""
    seen = []
    from scoreonce.stages.store import layer

    original = layer.file_damage
    monkeypatch.setattr(layer, "file_damage", lambda path: (seen.append(path.name), original(path))[1])
    return seen


def test_a_shard_is_checked_once_and_remembered(filled, hashed):
    opened(filled).ids()
    opened(filled).holds(pl.Series([name(3)]))
    assert hashed == []
    store = opened(filled)
    store.read(pl.Series([name(3)]), ["logps"])
    assert hashed == [store.shards()[0].name]  # what is used is checked by every process


def test_only_a_new_or_changed_shard_is_read(filled, hashed):
    store = opened(filled)
    with store.writing():
        new = store.append(table([name(30)]), {})
    changed = store.shards()[1]
    os.utime(changed, ns=(1, 1))
    assert opened(filled).ids().len() == 31
    assert sorted(hashed) == sorted([new.name, changed.name])
    hashed.clear()
    assert opened(filled).ids().len() == 31
    assert hashed == []


def test_a_shard_that_left_is_forgotten(filled):
    store = opened(filled)
    shard = store.shards()[0]
    shard.with_suffix(".json").unlink()
    shard.unlink()
    held = opened(filled).holds(pl.Series([name(n) for n in range(30)]))
    assert held.tolist() == [False] * 10 + [True] * 20


def spoil_digest(folder: Path) -> None:
    (body,) = (folder / "index").glob("*.bin")
    contents = bytearray(body.read_bytes())
    contents[40] ^= 1
    body.write_bytes(bytes(contents))


def shorten(folder: Path) -> None:
    (body,) = (folder / "index").glob("*.bin")
    body.write_bytes(body.read_bytes()[:-4])


def lose_table(folder: Path) -> None:
    (body,) = (folder / "index").glob("*.bin")
    body.unlink()


def lose(folder: Path) -> None:
    (folder / "index" / "shards.json").unlink()


def garble(folder: Path) -> None:
    (folder / "index" / "shards.json").write_text("[1]")


def rename_key(folder: Path) -> None:
    path = folder / "index" / "shards.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


@pytest.mark.parametrize("harm", [spoil_digest, shorten, lose_table, lose, garble, rename_key])
def test_an_index_that_cannot_be_trusted_is_made_again(filled, hashed, harm):
    harm(filled)
    store = opened(filled)
    assert sorted(store.ids()) == sorted(name(n) for n in range(30))
    assert len(hashed) == 3
    hashed.clear()
    assert opened(filled).ids().len() == 30
    assert hashed == []
    assert len(list((filled / "index").glob("*.bin"))) == 1


def test_readers_without_permission_keep_the_index_in_memory(filled, monkeypatch):
    """As on a file system that is mounted read-only, which would hold for root too."""
    lose(filled)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "_reserve", refuse)
    monkeypatch.setattr(module, "write_json", refuse)
    store = opened(filled)
    assert store.ids().len() == 30
    assert store.read(pl.Series([name(12)]), ["logps"])["logps"].to_list() == [2.0]
    assert not (filled / "index" / "shards.json").exists()


def test_the_table_is_mapped_not_read(filled):
    index = opened(filled).scores.index()
    assert isinstance(index.ids, np.memmap)
    assert isinstance(index.rows, np.memmap)
    assert not index.ids.flags.writeable


def test_what_a_killed_process_left_of_an_index_goes_with_the_next_writer(filled):
    for stray in (".shards.json.7.tmp", "shards-0123456789.bin"):
        (filled / "index" / stray).write_bytes(b"half")
    assert opened(filled).ids().len() == 30
    with opened(filled).writing():
        assert len(list((filled / "index").iterdir())) == 2
    assert opened(filled).ids().len() == 30


def test_the_index_needs_no_torch(filled):
    code = (
        "import sys; from pathlib import Path; from scoreonce.stages.store.store import ReferenceStore; "
        "from scoreonce.stages.store import compact, maintenance; "
        "print(ReferenceStore.at(Path(sys.argv[1])).ids().len(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(filled)], capture_output=True, text=True, check=True)
    assert done.stdout == "30 False\n"
