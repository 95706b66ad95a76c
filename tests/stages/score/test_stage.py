"""Stage one from the run file: what it demands, writes, says, and leaves alone."""

import errno
import json

import polars as pl
import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import ReferencePair
from scoreonce.stages.common.files import sha256
from scoreonce.stages.score import stage as score
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.store import codecs as store_codecs
from scoreonce.stages.store.store import ReferenceStore


@pytest.fixture
def prepared(world):
    pairs = world.random_pairs(30)
    world.prepare(pairs[:24], pairs[24:])
    return world


def test_the_pair_tables_and_their_manifest(prepared):
    paths = prepared.paths
    score.score(prepared.run())
    manifest = json.loads(paths.reference_manifest.read_text())
    store = ScoringJob.of(prepared.run()).store
    assert manifest["store_key"] == store.identity.key
    assert manifest["weights"] == store.identity.weights
    assert (manifest["dtype"], manifest["head"], manifest["layout"]) == ("float32", "float32", "packed")
    assert manifest["pairs"] == {"train": 24, "test": 6}
    assert manifest["pairs_manifest_sha256"] == sha256(paths.pairs_manifest)
    for split, height in (("train", 24), ("test", 6)):
        assert manifest["files"][f"{split}.parquet"] == sha256(paths.reference(split))
        table = pl.read_parquet(paths.reference(split))
        assert ReferencePair.is_valid(table)
        assert table.height == height
        assert table["pair_id"].to_list() == pl.read_parquet(paths.pairs(split))["pair_id"].to_list()


def test_the_summary(prepared, capsys):
    score.score(prepared.run())
    out = capsys.readouterr().out
    margins = pl.read_parquet(prepared.paths.reference("train"))["ref_margin"]
    assert "60 completions in" in out
    assert "0 reused" in out
    assert f"24 pairs; the reference prefers the chosen side in {(margins > 0).sum() / 24:.1%}" in out
    score.score(prepared.run())
    assert "nothing: all 60 completions are in the store" in capsys.readouterr().out


def test_a_second_time_what_a_killed_run_left_is_removed_but_not_beside_a_writer(prepared):
    """A table of an index that was killed before it was named; all completions are stored, so nothing else is done."""
    score.score(prepared.run())
    store = ScoringJob.of(prepared.run()).store
    stray = store.folder / "index" / "shards-0123456789.bin"
    with store.writing():
        stray.write_bytes(b"half")
        score.score(prepared.run())
        assert stray.exists(), "it may be the writer's"
    score.score(prepared.run())
    assert not stray.exists()


def test_a_second_time_nothing_is_written(prepared):
    score.score(prepared.run())
    before = {path: path.stat().st_mtime_ns for path in prepared.paths.out.rglob("*")}
    score.score(prepared.run())
    assert {path: path.stat().st_mtime_ns for path in prepared.paths.out.rglob("*")} == before


def test_swapped_labels_give_other_pairs_from_the_same_store(world):
    pairs = world.random_pairs(12)
    world.prepare(pairs)
    score.score(world.run())
    before = pl.read_parquet(world.paths.reference("train"))["ref_margin"]
    shards = ScoringJob.of(world.run()).store.shards()
    world.prepare([(p, r, c) for p, c, r in pairs])
    score.score(world.run())
    assert ScoringJob.of(world.run()).store.shards() == shards
    assert pl.read_parquet(world.paths.reference("train"))["ref_margin"].to_list() == (-before).to_list()


def test_a_lost_or_changed_pair_table_is_made_again(prepared):
    score.score(prepared.run())
    path = prepared.paths.reference("test")
    before = path.read_bytes()
    path.write_bytes(b"damaged")
    score.score(prepared.run())
    assert path.read_bytes() == before
    path.unlink()
    score.score(prepared.run())
    assert path.read_bytes() == before


def test_a_shard_damaged_afterwards_is_redone(prepared, capsys):
    score.score(prepared.run())
    shard = ScoringJob.of(prepared.run()).store.shards()[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    capsys.readouterr()
    score.score(prepared.run())
    captured = capsys.readouterr()
    assert f"damaged shard {shard.name}" in captured.err
    assert "completions in" in captured.out


def test_another_dtype_makes_its_own_tables(prepared):
    score.score(prepared.run())
    before = json.loads(prepared.paths.reference_manifest.read_text())
    score.score(prepared.run(reference={"dtype": "bfloat16"}))
    after = json.loads(prepared.paths.reference_manifest.read_text())
    assert after["store_key"] != before["store_key"]
    assert after["files"] != before["files"]


def test_a_dry_run_says_what_is_left_and_writes_nothing(prepared, capsys):
    score.estimate(prepared.run())
    out = capsys.readouterr().out
    assert "30 pairs, 60 completions" in out
    assert "time       about" in out
    assert "memory     about" in out
    assert "disk       about" in out
    assert not prepared.paths.store.exists()
    assert not prepared.paths.reference_manifest.exists()
    score.score(prepared.run())
    capsys.readouterr()
    score.estimate(prepared.run())
    assert capsys.readouterr().out == "Nothing is left to score.\n"


def test_pairs_must_be_prepared(world):
    with pytest.raises(InputError, match=r"(?s)not prepared.*scoreonce prepare"):
        score.score(world.run())


@pytest.mark.parametrize("name", ["train.parquet", "test.tokens.arrow"])
def test_prepared_files_must_be_there_and_unchanged(prepared, name):
    path = prepared.paths.pairs_manifest.parent / name
    contents = path.read_bytes()
    path.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
    with pytest.raises(InputError, match=r"(?s)not what.*wrote.*scoreonce prepare"):
        score.score(prepared.run())
    path.unlink()
    with pytest.raises(InputError, match=f"(?s)missing.*no {name}.*scoreonce prepare"):
        score.score(prepared.run())


@pytest.mark.parametrize("contents", ["{", "[]", '{"format": 9, "files": {}}'])
def test_a_manifest_that_is_none_is_refused(prepared, contents):
    prepared.paths.pairs_manifest.write_text(contents)
    with pytest.raises(InputError, match=r"(?s)manifest of the prepared pairs.*scoreonce prepare"):
        score.score(prepared.run())


def test_no_such_model(prepared):
    with pytest.raises(InputError, match="No such model"):
        score.score(prepared.run(reference={"model": "/nowhere/at/all"}))


def test_ctrl_c_says_what_stays(prepared, monkeypatch, capsys):
    original, written = ReferenceStore.append, []

    def interrupted(self, table, provenance, **options):
        if written:
            raise KeyboardInterrupt
        written.append(original(self, table, provenance, **options))

    monkeypatch.setattr(ReferenceStore, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score.score(prepared.run())
    assert "1 finished shards stay in" in capsys.readouterr().err
    assert not prepared.paths.reference_manifest.exists()


def test_a_full_disk_is_said_and_leaves_whole_shards_alone(prepared, monkeypatch):
    original, written = store_codecs.ScoreCodec.write, []

    def fills_up(self, table, path):
        if len(written) == 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        original(self, table, path)

    monkeypatch.setattr(store_codecs.ScoreCodec, "write", fills_up)
    with pytest.raises(InputError) as raised:
        score.score(prepared.run())
    error = raised.value
    assert "cannot be written" in error.what
    assert "No space left" in error.found
    assert str(prepared.paths.store) in error.where
    assert "Free space" in error.fix
    store = ScoringJob.of(prepared.run()).store
    assert [path.suffix for path in sorted(store.shards_folder.iterdir())] == [".json", ".parquet"] * 2
    assert store.damage() == []
    assert not prepared.paths.reference_manifest.exists()
