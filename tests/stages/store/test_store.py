"""The store: what is committed exists whole, what is damaged is named, and nobody writes beside another."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.store import codecs, sidecar
from scoreonce.stages.store.identity import StoreIdentity
from scoreonce.stages.store.index import packed
from scoreonce.stages.store.store import ReferenceStore

IDENTITY = StoreIdentity("w" * 64, "float32")


@pytest.fixture
def store(tmp_path) -> ReferenceStore:
    return ReferenceStore(tmp_path, IDENTITY, "tiny")


def ids(start: int, stop: int) -> list[str]:
    return [f"{number:032x}" for number in range(start, stop)]


def table(names: list[str], logp: float = -0.5) -> pa.Table:
    return pa.table(
        {
            "completion_id": pa.array(names, pa.string()),
            "token_logps": pa.array([[logp, -float(int(name, 16))] for name in names], pa.list_(pa.float32())),
            "logps": pa.array([logp - int(name, 16) for name in names], pa.float64()),
            "completion_len": pa.array([2] * len(names), pa.int32()),
            "entropy": pa.array([1.0] * len(names), pa.float64()),
            "collision_logps": pa.array([-1.0] * len(names), pa.float64()),
            "top1_hits": pa.array([1] * len(names), pa.int32()),
        }
    )


def fresh(store: ReferenceStore) -> ReferenceStore:
    """The same store as another process opens it."""
    return ReferenceStore.at(store.folder)


def fill(store: ReferenceStore, *ranges: tuple[int, int]) -> list[Path]:
    with store.writing():
        return [store.append(table(ids(*bounds)), {"device": "cpu"}) for bounds in ranges]


def test_whatever_changes_the_values_changes_the_key():
    others = [
        StoreIdentity("v" * 64, "float32"),
        StoreIdentity("w" * 64, "bfloat16"),
        StoreIdentity("w" * 64, "float32", head="bfloat16"),
        StoreIdentity("w" * 64, "float32", adapter="a" * 64),
    ]
    keys = {identity.key for identity in [IDENTITY, *others]}
    assert len(keys) == 5
    assert all(len(key) == 32 and int(key, 16) >= 0 for key in keys)


def test_what_is_appended_is_read_back(store):
    fill(store, (0, 5), (5, 9))
    assert sorted(fresh(store).ids()) == ids(0, 9)
    read = fresh(store).read(pl.Series(ids(3, 7) + ids(100, 102)), ["logps", "token_logps"]).sort("completion_id")
    assert read.columns == ["completion_id", "logps", "token_logps"]
    assert read["completion_id"].to_list() == ids(3, 7)
    assert read["logps"].to_list() == [-3.5, -4.5, -5.5, -6.5]
    assert read["token_logps"].to_list() == [[-0.5, -3.0], [-0.5, -4.0], [-0.5, -5.0], [-0.5, -6.0]]


def test_an_empty_store_answers(store):
    assert store.ids().len() == 0
    assert store.read(pl.Series(ids(0, 2)), ["logps"]).schema == {"completion_id": pl.String, "logps": pl.Float64}
    assert store.shards() == []
    assert store.damage() == []


def test_only_shards_that_hold_a_wanted_completion_are_read(store, monkeypatch):
    shards = fill(store, (0, 5), (5, 9))
    opened = []
    original = codecs.read_parquet
    monkeypatch.setattr(
        codecs, "read_parquet", lambda path, columns: (opened.append((path, columns)), original(path, columns))[1]
    )
    fresh(store).read(pl.Series(ids(6, 7)), ["token_logps"])
    assert [path for path, columns in opened if "token_logps" in columns] == [shards[1]]


def test_a_completion_in_two_shards_counts_once(store):
    fill(store, (0, 5), (3, 8))
    assert sorted(fresh(store).ids()) == ids(0, 8)
    assert sorted(fresh(store).read(pl.Series(ids(0, 8)), ["logps"])["completion_id"]) == ids(0, 8)


def test_a_sidecar_states_rows_tokens_and_origin(store):
    shard = fill(store, (0, 5))[0]
    stated = json.loads(shard.with_suffix(".json").read_text())
    assert stated["rows"] == 5
    assert stated["tokens"] == 10
    assert stated["bytes"] == shard.stat().st_size
    assert stated["provenance"] == {"device": "cpu"}
    assert pa.parquet.read_metadata(shard).num_row_groups == 1


def test_a_shard_without_its_sidecar_does_not_exist(store):
    first, second = fill(store, (0, 5), (5, 9))
    second.with_suffix(".json").unlink()
    again = fresh(store)
    assert sorted(again.ids()) == ids(0, 5)
    with again.writing():
        pass
    assert first.exists()
    assert not second.exists()


def test_unfinished_files_go_with_the_next_writer(store):
    fill(store, (0, 5))
    leftover = store.shards_folder / ".x.parquet.123.tmp"
    leftover.write_bytes(b"half")
    with fresh(store).writing():
        assert not leftover.exists()
    assert fresh(store).damage() == []


def flip(path: Path, position: int) -> None:
    contents = bytearray(path.read_bytes())
    contents[position] ^= 1 << (position % 8)
    path.write_bytes(bytes(contents))


def damage_of(store: ReferenceStore, shard: Path) -> str:
    """The one damaged shard is named, by readers too."""
    (damage,) = fresh(store).damage()
    assert damage.path == shard
    with pytest.raises(InputError, match="scoreonce score") as raised:
        fresh(store).ids()
    assert str(shard) in str(raised.value)
    with pytest.raises(InputError, match="damaged"):
        fresh(store).read(pl.Series(ids(0, 9)), ["logps"])
    return damage.reason


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_anywhere_is_noticed(store, seed):
    shard = fill(store, (0, 5), (5, 9))[1]
    flip(shard, random.Random(seed).randrange(shard.stat().st_size))
    assert "SHA-256" in damage_of(store, shard)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_shard_is_noticed(store, share):
    shard = fill(store, (0, 5), (5, 9))[1]
    contents = shard.read_bytes()
    shard.write_bytes(contents[: int(share * len(contents))])
    assert "bytes" in damage_of(store, shard)


def test_a_lost_file_is_noticed(store):
    shard = fill(store, (0, 5), (5, 9))[1]
    shard.unlink()
    assert "gone" in damage_of(store, shard)


@pytest.mark.parametrize("contents", ["", "{", "[]", '{"format": 1}', "\x00\xff\xfe"])
def test_a_damaged_sidecar_is_noticed(store, contents):
    shard = fill(store, (0, 5), (5, 9))[1]
    shard.with_suffix(".json").write_text(contents, encoding="latin-1")
    assert "sidecar" in damage_of(store, shard)


@pytest.mark.parametrize(("key", "value"), [("sha256", "0" * 64), ("rows", 3), ("bytes", 1)])
def test_a_sidecar_that_states_something_else_is_noticed(store, key, value):
    shard = fill(store, (0, 5), (5, 9))[1]
    sidecar = shard.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {key: value}))
    assert damage_of(store, shard)


def test_damage_after_the_check_is_caught_by_page_checksums(store):
    """The object has found the shard sound and does not hash it again."""
    (shard,) = fill(store, (0, 5))
    again = fresh(store)
    assert again.damage() == []
    flip(shard, 30)
    with pytest.raises(InputError, match="damaged"):
        again.read(pl.Series(ids(0, 5)), ["completion_id", "token_logps", "logps"][1:])


def test_repair_sets_damaged_shards_aside(store):
    first, second, third = fill(store, (0, 5), (5, 9), (9, 12))
    flip(second, 100)
    third.with_suffix(".json").write_text("{")
    again = fresh(store)
    with again.writing():
        assert [damage.path for damage in again.set_aside_damaged()] == [second, third]
    assert sorted(fresh(store).ids()) == ids(0, 5)
    names = {path.name for path in (store.folder / "damaged").iterdir()}
    assert names == {path.name for shard in (second, third) for path in (shard, shard.with_suffix(".json"))}
    assert first.exists()


def test_what_stands_in_damaged_shards_counts_as_not_stored(store):
    """To `holds` alone, by which `score` plans; readers are stopped."""
    shard = fill(store, (0, 5), (5, 9))[1]
    flip(shard, 50)
    assert fresh(store).holds(pl.Series(ids(0, 12))).tolist() == [True] * 5 + [False] * 7
    with pytest.raises(InputError, match="damaged"):
        fresh(store).ids()


@pytest.mark.parametrize("failing", ["write_table", "write_json"])
def test_a_full_disk_leaves_nothing_half_written(store, monkeypatch, failing):
    fill(store, (0, 5))
    before = sorted(store.shards_folder.iterdir())
    module = {"write_table": codecs.pq, "write_json": sidecar}[failing]
    original = getattr(module, failing)

    def fails(*given, **options):
        original(*given, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, failing, fails)
    with pytest.raises(InputError) as raised:
        store.append(table(ids(5, 9)), {})
    error = raised.value
    assert "No space left" in error.found
    assert error.where == str(store.folder)
    assert "score.store" in error.fix
    left = [path for path in sorted(store.shards_folder.iterdir()) if path not in before]
    assert [path for path in left if path.suffix == ".parquet"] == []
    monkeypatch.undo()
    with fresh(store).writing():
        pass
    assert fresh(store).damage() == []
    assert sorted(fresh(store).ids()) == ids(0, 5)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    store = ReferenceStore(tmp_path / "file", IDENTITY)
    with pytest.raises(InputError, match="cannot be written"), store.writing():
        pass


HOLD = """
import sys
from pathlib import Path
from scoreonce.stages.store.identity import StoreIdentity
from scoreonce.stages.store.index import packed
from scoreonce.stages.store.store import ReferenceStore
with ReferenceStore(Path(sys.argv[1]), StoreIdentity("w" * 64, "float32"), "tiny").writing():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes to the same store until its input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        yield other
        other.kill()


def test_a_second_writer_is_told_who_holds_the_store(store, holder):
    with pytest.raises(InputError, match=f"process {holder.pid} on .* since ") as raised, store.writing(timeout=0):
        pass
    assert "The reference store of tiny is in use" in str(raised.value)


def test_a_second_writer_waits(store, holder, capfd):
    class Release:
        """stderr that lets the holder go as soon as the waiting is announced."""

        def write(self, text: str) -> None:
            holder.stdin.close()

        def flush(self) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", Release())
        with store.writing():
            assert (store.folder / "write.holder.json").exists()
    assert holder.wait() == 0


def test_the_lock_of_a_killed_writer_is_free(store, holder):
    holder.kill()
    holder.wait()
    with store.writing(timeout=0):
        pass


def test_readers_need_no_lock(store, holder):
    assert store.ids().len() == 0


def test_a_store_says_what_it_holds(store):
    fill(store, (0, 1))
    again = ReferenceStore.at(store.folder)
    assert (again.identity, again.model) == (IDENTITY, "tiny")


def test_a_store_under_a_wrong_name_is_refused(store, tmp_path):
    fill(store, (0, 1))
    store.folder.rename(tmp_path / "other")
    with pytest.raises(InputError, match="not named after its key"):
        ReferenceStore.at(tmp_path / "other")


def test_a_damaged_identity_is_written_again(store):
    fill(store, (0, 1))
    (store.folder / "identity.json").write_text("{")
    with pytest.raises(InputError, match="does not say"):
        ReferenceStore.at(store.folder)
    with store.writing():
        pass
    assert ReferenceStore.at(store.folder).identity == IDENTITY


def test_a_moved_store_works(store, tmp_path):
    fill(store, (0, 5))
    (tmp_path / "elsewhere").mkdir()
    store.folder.rename(tmp_path / "elsewhere" / store.folder.name)
    assert sorted(ReferenceStore(tmp_path / "elsewhere", IDENTITY).ids()) == ids(0, 5)


def test_the_store_needs_no_torch():
    code = "import sys; import scoreonce.stages.store.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0


def test_sums_of_the_first_token_logps(store):
    """Completion n has log-probs −0.5 and −n: one of them, both, none, more than there are; 99 is not stored; the
    shards are read in no order of the ids, and a completion may be asked for twice."""
    fill(store, (0, 3), (3, 6))
    wanted = packed(f"{number:032x}" for number in (4, 1, 4, 2, 99, 3))
    sums = fresh(store).prefix_sums(wanted, np.array([1, 2, 2, 0, 1, 7]))
    np.testing.assert_array_equal(sums, [-0.5, -1.5, -4.5, 0.0, np.nan, -3.5])
    assert store.prefix_sums(wanted[:0], np.array([], np.int64)).shape == (0,)


def test_prefix_sums_make_an_index_again_that_leads_astray(store):
    fill(store, (0, 3), (3, 6))
    store.scores.index()
    object.__setattr__(store.scores._index, "rows", np.array(store.scores._index.rows)[::-1].copy())
    assert store.prefix_sums(packed([f"{5:032x}"]), np.array([2])).tolist() == [-5.5]
