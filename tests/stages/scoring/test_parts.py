"""Scoring in parts: together what one process scores; and what becomes of damage, leftovers and the pair tables."""

import gc
from pathlib import Path

import polars as pl
import pytest
import torch

from scoreonce.schemas.errors import InputError
from scoreonce.stages.score import stage as score
from scoreonce.stages.scoring import model_scorer as inference
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.store import maintenance
from scoreonce.stages.store.compact import compact
from scoreonce.stages.store.parts import Part, mark_of
from scoreonce.stages.store.store import ReferenceStore
from scoreonce.stages.store.tensor_rows import TensorRows

LAYERS = {
    "shards": {},
    "hidden": {"full_vocab": "hidden", "embeddings": True},
    "topk-tail-8": {"full_vocab": "topk", "topk": 8, "mismatched": True},
}


@pytest.fixture
def prepared(world):
    """60 completions of 23 prompts: every fourth of 30 pairs shares its prompt with the one before."""
    pairs = world.random_pairs(30)
    world.prepare(pairs[:24], pairs[24:])
    return world


def store_of(world) -> ReferenceStore:
    return ScoringJob.of(world.run()).store


def rows_of(store: ReferenceStore) -> int:
    return sum(store.sidecar(shard)["rows"] for shard in store.shards())


@pytest.mark.parametrize("layer", LAYERS)
def test_three_parts_give_what_one_process_gives(prepared, layer):
    settings = LAYERS[layer]
    whole = prepared.run(score={**settings, "store": str(prepared.folder / "whole")})
    total = score.score(whole).scored
    expected = {split: pl.read_parquet(prepared.paths.reference(split)) for split in ("train", "test")}
    one = ReferenceStore.of(whole)
    prepared.paths.reference_manifest.unlink()
    done = 0
    for part in ("2/3", "3/3", "1/3"):
        assert not prepared.paths.reference_manifest.exists()
        result = score.score(prepared.run(score=settings), part=part)
        done += result.scored
        assert 0 < result.scored < total
        assert (result.reused, result.missing) == (0, total - done)
    assert done == total == rows_of(store_of(prepared))
    for split, table in expected.items():
        joined = result.pairs(split)
        assert joined["pair_id"].to_list() == table["pair_id"].to_list()
        for column in ("ref_chosen_logps", "ref_rejected_logps", "ref_margin", "ref_kl_logps", "ref_ches"):
            assert joined[column].null_count() == table[column].null_count()
            assert ((joined[column] - table[column]).abs() <= 1e-4).drop_nulls().all()
    made = store_of(prepared)
    for filled in made.layers():
        assert {mark_of(path) for path in filled.files()} == {"1of3", "2of3", "3of3"}
    if layer != "shards":
        column, ids = {"hidden": "hidden", "topk-tail-8": "logps"}[layer], one.ids().to_list()
        parts, alone = (TensorRows(store.tensors(layer)).read(ids, column) for store in (made, one))
        torch.testing.assert_close(parts, alone, rtol=1e-3, atol=1e-3)
        blocks = made.tensors(layer)
        assert sum(blocks.sidecar(block)["rows"] for block in blocks.files()) == total
        assert made.head(layer).damage() == []


def test_completions_of_a_prompt_are_scored_together(prepared):
    """Every prompt is computed once, as by one process."""
    for number in (1, 2, 3):
        score.score(prepared.run(score={"shard_completions": 1}), part=f"{number}/3")
    pairs = pl.concat(pl.read_parquet(prepared.paths.pairs(split)) for split in ("train", "test"))
    sides = [pairs.select("prompt_id", completion_id=f"{side}_id") for side in ("chosen", "rejected")]
    store = store_of(prepared)
    shards = [store.table(shard, ["completion_id"])["completion_id"].to_pylist() for shard in store.shards()]
    where = pl.DataFrame({"completion_id": shards, "shard": range(len(shards))}).explode("completion_id")
    assert where.height == 60
    assert (
        pl.concat(sides).join(where, on="completion_id").group_by("prompt_id").n_unique()["shard"].to_list() == [1] * 23
    )
    assert {store.sidecar(shard)["provenance"]["part"] for shard in store.shards()} == {"1/3", "2/3", "3/3"}


def test_what_a_part_says(prepared, capsys):
    first = score.score(prepared.run(), part="1/2")
    out = capsys.readouterr().out
    assert f"scored     {first.scored} completions in" in out
    assert f"part 1/2   done; {60 - first.scored} completions of other parts are still missing" in out
    assert "the last part writes the pair tables" in out
    with pytest.raises(InputError, match=f"(?s)not written yet.*{60 - first.scored} completions of other parts"):
        first.pairs("train")
    score.score(prepared.run(), part="1/2")
    assert f"nothing: all {first.scored} completions of part 1/2 are in the store" in capsys.readouterr().out
    assert score.score(prepared.run(), part="2/2").missing == 0
    out = capsys.readouterr().out
    assert "still missing" not in out
    assert "24 pairs; the reference prefers the chosen side in" in out


def test_a_dry_run_of_a_part(prepared, capsys):
    score.estimate(prepared.run(), part="1/2")
    assert " tokens of part 1/2" in capsys.readouterr().out
    scored = score.score(prepared.run(), part="1/2").scored
    capsys.readouterr()
    score.estimate(prepared.run(), part="1/2")
    assert capsys.readouterr().out == "Nothing is left to score of part 1/2.\n"
    score.estimate(prepared.run(), part="2/2")
    assert f"{60 - scored} completions" in capsys.readouterr().out


def test_no_such_part_is_said_before_anything_is_read(world):
    with pytest.raises(InputError, match="There is no such part"):
        score.score(world.run(), part="9/8")
    with pytest.raises(InputError, match="There is no such part"):
        score.estimate(world.run(), part="0/8")


def test_parts_without_a_prompt_load_no_model(world, monkeypatch):
    """Three completions of one prompt, in two pairs: they are in the same part of five."""
    world.prepare([([1, 5], [7, 2], [8, 3]), ([1, 5], [7, 2], [9, 3])])
    assert sorted(score.score(world.run(), part=f"{number}/5").scored for number in range(1, 6)) == [0, 0, 0, 0, 3]
    monkeypatch.setattr(inference, "load_reference", None)
    assert [score.score(world.run(), part=f"{number}/5").scored for number in range(1, 6)] == [0] * 5


def test_parts_of_another_number_score_only_what_is_missing(prepared):
    scored = [score.score(prepared.run(), part=part).scored for part in ("1/2", "1/3", "2/3", "3/3")]
    assert sum(scored) == 60 == rows_of(store_of(prepared))
    assert score.score(prepared.run()).scored == 0


def test_score_without_a_part_scores_what_parts_have_left(prepared):
    first = score.score(prepared.run(), part="1/2").scored
    result = score.score(prepared.run())
    assert (result.scored, result.reused, result.missing) == (60 - first, first, 0)
    assert prepared.paths.reference_manifest.exists()


def test_beside_a_part_at_work(prepared):
    """Another part scores; whatever writes to all of the store is told who is at work; who only reads is not."""
    run, store = prepared.run(), store_of(prepared)
    busy = r"Part 1/2 of the reference store of .* is in use by another process"
    with store.scoring_part(Part(1, 2)):
        half = store.shards_folder / "20260101T0-1of2-01.parquet"
        half.write_bytes(b"half")
        second = score.score(run, part="2/2", lock_timeout=0)
        for attempt in (
            lambda: score.score(run, lock_timeout=0),
            lambda: score.score(run, part="1/2", lock_timeout=0),
            lambda: maintenance.gc(prepared.paths.store),
            lambda: maintenance.gc(prepared.paths.store, drop=[store.identity.key]),
            lambda: compact(prepared.paths.store),
        ):
            with pytest.raises(InputError, match=busy):
                attempt()
        assert half.exists()
    first = score.score(run, part="1/2")
    assert (first.scored, first.missing) == (60 - second.scored, 0)
    assert not half.exists()
    with store.scoring_part(Part(1, 2)):
        assert score.score(run, lock_timeout=0).scored == 0


@pytest.mark.parametrize("what", ["gc", "compact"])
def test_a_part_waits_for_who_merges_or_removes_files(prepared, monkeypatch, what):
    """While files are merged or removed, a part that starts could read an index of what is there no more."""
    score.score(prepared.run())
    met = []

    def at_work(layer, *_):
        if not met:
            with pytest.raises(InputError, match=r"The reference store of .* is in use") as raised:
                score.score(prepared.run(), part="1/2", lock_timeout=0)
            met.append(raised.value)

    if what == "gc":
        monkeypatch.setattr(maintenance, "_keep_only", at_work)
        maintenance.gc(prepared.paths.store, keep=[prepared.paths.pairs("train")])
    else:
        monkeypatch.setattr("scoreonce.stages.store.compact.compact_layer", at_work)
        compact(prepared.paths.store)
    assert met


def test_gc_and_compact_between_the_parts(prepared):
    """Files of parts are merged and pruned as any others."""
    run = prepared.run(score={"shard_completions": 4})
    first = score.score(run, part="1/2").scored
    maintenance.gc(prepared.paths.store, keep=[prepared.paths.pairs(split) for split in ("train", "test")])
    assert compact(prepared.paths.store) > 0
    assert score.score(run, part="1/2").scored == 0
    second = score.score(run, part="2/2")
    assert (second.scored, second.missing) == (60 - first, 0)
    assert compact(prepared.paths.store) > 0
    assert rows_of(store_of(prepared)) == 60
    assert score.score(run).scored == 0


def test_damage_in_the_file_of_another_part_is_set_aside_and_missing_until_that_part_runs(prepared, capsys):
    score.score(prepared.run(), part="1/2")
    score.score(prepared.run(), part="2/2")
    store = store_of(prepared)
    shard = next(shard for shard in store.shards() if store.sidecar(shard)["provenance"]["part"] == "1/2")
    lost = store.sidecar(shard)["rows"]
    shard.write_bytes(shard.read_bytes()[:-1])
    capsys.readouterr()
    second = score.score(prepared.run(), part="2/2")
    assert (second.scored, second.missing) == (0, lost)
    assert f"damaged shard {shard.name}" in capsys.readouterr().err
    first = score.score(prepared.run(), part="1/2")
    assert (first.scored, first.missing) == (lost, 0)
    assert store_of(prepared).damage() == []


def test_a_damaged_head_is_written_again_by_any_part(prepared):
    run = prepared.run(score={"full_vocab": "hidden"})
    score.score(run, part="1/2")
    head = store_of(prepared).head("hidden")
    head.path.write_bytes(head.path.read_bytes()[:-1])
    score.score(run, part="1/2")
    assert store_of(prepared).head("hidden").exists()
    assert store_of(prepared).damage() == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux, which lists what is mapped")
def test_no_index_is_mapped_while_a_part_scores(prepared, monkeypatch):
    """Another part replaces its file. On a network file system, reading what another machine removed ends a process."""
    score.score(prepared.run(), part="1/2")
    table = next((store_of(prepared).folder / "index").glob("shards-*.bin"))
    gc.collect()
    original, mapped = ReferenceStore.append, []

    def looks(self, rows, provenance, **options):
        mapped.append(str(table.parent) in Path("/proc/self/maps").read_text())
        return original(self, rows, provenance, **options)

    monkeypatch.setattr(ReferenceStore, "append", looks)
    score.score(prepared.run(), part="2/2")
    assert mapped
    assert not any(mapped)


def test_tables_that_another_part_wrote_meanwhile_are_not_written_twice(prepared, monkeypatch):
    """Two parts that end at the same time both find nothing missing."""
    score.score(prepared.run(), part="1/2")
    original, written = score.locked, []

    def other_was_first(*args, **options):
        if not written:
            written.append(None)
            score.score(prepared.run(), part="1/2")
            written.append(prepared.paths.reference_manifest.stat().st_mtime_ns)
        return original(*args, **options)

    monkeypatch.setattr(score, "locked", other_was_first)
    score.score(prepared.run(), part="2/2")
    assert prepared.paths.reference_manifest.stat().st_mtime_ns == written[1]
