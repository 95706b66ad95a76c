"""`scoreonce store`: what is listed, found damaged, and removed."""

import polars as pl
import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.score import stage as score
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.store import maintenance as store_command


@pytest.fixture
def scored(world):
    """A store of 40 completions in three shards."""
    world.prepare(world.random_pairs(20))
    score.score(world.run())
    return world


def test_the_list_has_one_row_per_store(scored, capsys):
    score.score(scored.run(reference={"dtype": "bfloat16"}))
    capsys.readouterr()
    listed = store_command.list_stores(scored.paths.store)
    out = capsys.readouterr().out
    store = ScoringJob.of(scored.run()).store
    row = listed.row(by_predicate=pl.col("key") == store.identity.key, named=True)
    assert listed.height == 2
    assert (row["model"], row["dtype"], row["completions"], row["damaged"]) == (str(scored.model()), "float32", 40, 0)
    assert row["tokens"] == store.read(store.ids(), ["completion_len"])["completion_len"].sum()
    assert row["bytes"] == sum(shard.stat().st_size for shard in store.shards())
    assert store.identity.key in out
    assert "40 completions" in out


def test_what_cannot_be_listed_is_counted(scored, capsys):
    store = ScoringJob.of(scored.run()).store
    store.shards()[0].with_suffix(".json").write_text("{")
    assert store_command.list_stores(scored.paths.store)["damaged"].to_list() == [1]
    (store.folder / "identity.json").write_text("{")
    assert store_command.list_stores(scored.paths.store)["model"].to_list() == ["?"]
    assert "2 damaged" in capsys.readouterr().out


def test_verify_counts_and_names_what_is_damaged(scored, capsys):
    store = ScoringJob.of(scored.run()).store
    assert store_command.verify(scored.paths.store) == 0
    assert "3 shards, all sound" in capsys.readouterr().out
    first, second, _ = store.shards()
    first.write_bytes(first.read_bytes()[:-9])
    second.with_suffix(".json").write_text("")
    assert store_command.verify(scored.paths.store) == 2
    out = capsys.readouterr().out
    assert str(first) in out
    assert str(second) in out
    assert "scoreonce score" in out


def test_verify_counts_a_store_without_identity(scored):
    (ScoringJob.of(scored.run()).store.folder / "identity.json").unlink()
    assert store_command.verify(scored.paths.store) == 1


def test_gc_removes_leftovers_and_nothing_else(scored):
    store = ScoringJob.of(scored.run()).store
    kept = {path: path.read_bytes() for path in store.shards_folder.iterdir()}
    (store.shards_folder / ".a.parquet.7.tmp").write_bytes(b"x" * 100)
    (store.shards_folder / "b.parquet").write_bytes(b"x" * 50)
    (store.folder / "damaged").mkdir()
    (store.folder / "damaged" / "c.parquet").write_bytes(b"x" * 25)
    assert store_command.gc(scored.paths.store) == 175
    assert {path: path.read_bytes() for path in store.shards_folder.iterdir()} == kept
    assert not (store.folder / "damaged").exists()


def test_gc_keeps_the_completions_of_named_pairs(scored):
    store = ScoringJob.of(scored.run()).store
    before = store.read(store.ids(), ["token_logps", "logps"]).sort("completion_id")
    pairs = scored.random_pairs(20)
    paths = scored.prepare(pairs[3:9])
    assert store_command.gc(scored.paths.store, keep=[paths.pairs("train")]) > 0
    after = ScoringJob.of(scored.run()).store
    assert after.damage() == []
    kept = after.read(after.ids(), ["token_logps", "logps"]).sort("completion_id")
    assert kept.height == 12
    assert kept.equals(before.join(kept.select("completion_id"), on="completion_id", how="semi", maintain_order="left"))
    score.score(scored.run())
    assert ScoringJob.of(scored.run()).store.shards() == after.shards()


def test_gc_of_pairs_that_are_all_there_rewrites_nothing(scored):
    shards = ScoringJob.of(scored.run()).store.shards()
    store_command.gc(scored.paths.store, keep=[scored.paths.pairs("train"), scored.paths.pairs("test")])
    assert ScoringJob.of(scored.run()).store.shards() == shards


def test_gc_removes_nothing_if_the_pairs_to_keep_cannot_be_read(scored, tmp_path):
    shards = ScoringJob.of(scored.run()).store.shards()
    with pytest.raises(InputError, match=r"(?s)nothing was removed.*no\.parquet"):
        store_command.gc(scored.paths.store, keep=[tmp_path / "no.parquet"])
    assert ScoringJob.of(scored.run()).store.shards() == shards


def test_gc_drops_a_store_by_its_key(scored):
    score.score(scored.run(reference={"dtype": "bfloat16"}))
    plain, other = ScoringJob.of(scored.run()).store, ScoringJob.of(scored.run(reference={"dtype": "bfloat16"})).store
    with pytest.raises(InputError, match="Did you mean"):
        store_command.gc(scored.paths.store, drop=[other.identity.key[:-1] + "x"])
    store_command.gc(scored.paths.store, drop=[other.identity.key])
    assert not other.folder.exists()
    assert plain.ids().len() == 40


def test_gc_leaves_a_store_in_use_alone(scored):
    store = ScoringJob.of(scored.run()).store
    (store.folder / "damaged").mkdir()
    with store.writing(), pytest.raises(InputError, match=r"(?s)in use by another process.*process \d+ on"):
        store_command.gc(scored.paths.store)
    assert (store.folder / "damaged").exists()


@pytest.mark.parametrize("command", [store_command.list_stores, store_command.verify, store_command.gc])
def test_no_store_yet(tmp_path, command):
    with pytest.raises(InputError, match="no reference store yet"):
        command(tmp_path / "none")
