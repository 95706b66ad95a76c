"""Merging small files: the same rows from fewer files, and nothing lost wherever it is interrupted."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from scoreonce.schemas.errors import InputError
from scoreonce.stages.score import stage as score
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.run import score_completions
from scoreonce.stages.store import compact as module
from scoreonce.stages.store.compact import compact, merged_provenance
from scoreonce.stages.store.index import packed, unpacked
from scoreonce.stages.store.layer import Layer
from scoreonce.stages.store.store import ReferenceStore
from scoreonce.stages.store.tensor_rows import TensorRows

SETTINGS = {"full_vocab": "hidden", "embeddings": True, "shard_completions": 8}


@pytest.fixture
def scored(world):
    """40 completions in five shards, and as many blocks of two layers."""
    world.prepare(world.random_pairs(20))
    score.score(world.run(score=SETTINGS))
    return world


def fresh(world) -> ReferenceStore:
    return ScoringJob.of(world.run()).store


def contents(world) -> tuple[pl.DataFrame, dict[str, torch.Tensor]]:
    """Everything that the three layers hold, by id."""
    store = fresh(world)
    scores = store.read(store.ids(), ["token_logps", "logps", "completion_len"]).sort("completion_id")
    columns = {"hidden": "hidden", "pooled": "hidden_sum"}
    rows = {name: TensorRows(store.tensors(name)) for name in columns}
    names = scores["completion_id"].to_list()
    return scores, {f"{n} {i}": rows[n].read([i], column) for n, column in columns.items() for i in names}


def same(left, right) -> bool:
    equal = all(torch.equal(values, right[1][name]) for name, values in left[1].items())
    return left[0].equals(right[0]) and left[1].keys() == right[1].keys() and equal


def files(world) -> dict[str, list[Path]]:
    return {layer.name: layer.files() for layer in fresh(world).layers()}


def test_the_same_rows_from_fewer_files(scored, capsys):
    before, many = contents(scored), files(scored)
    assert min(map(len, many.values())) == 5
    assert compact(scored.paths.store) == 3 * 4
    assert {name: len(paths) for name, paths in files(scored).items()} == {"shards": 1, "hidden": 1, "pooled": 1}
    assert "hidden: 5 files merged into 1" in capsys.readouterr().out
    assert same(contents(scored), before)
    assert fresh(scored).damage() == []
    assert score_completions(ScoringJob.of(scored.run(score=SETTINGS))).scored == 0
    assert compact(scored.paths.store) == 0
    assert "nothing to merge" in capsys.readouterr().out


def test_files_are_filled_up_to_the_target(scored):
    """Files of sizes a, b, c, ... go into one as long as they fit together; one of half the target stays."""
    shards = fresh(scored).shards()
    sizes = [shard.stat().st_size for shard in shards]
    target = 2 * max(sizes) + 2
    assert sum(sorted(sizes)[:3]) > target  # so that groups are pairs
    with fresh(scored).writing():
        module.compact_layer(fresh(scored).scores, target)
    rows = [fresh(scored).sidecar(shard)["rows"] for shard in fresh(scored).shards()]
    assert len(rows) == 3
    assert sum(rows) == 40
    assert fresh(scored).shards()[0] == shards[4]  # the one that was left alone


@pytest.mark.parametrize("moment", range(14))
def test_killed_at_any_moment_nothing_is_lost(scored, monkeypatch, moment):
    """Stopped before the n-th write or removal of a file: everything reads as before, and the next run finishes."""
    before, left = contents(scored), [moment]

    def counted(original):
        def wrapped(*given, **named):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return original(*given, **named)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(Layer, "append", counted(Layer.append))
        patch.setattr(module, "remove", counted(module.remove))
        with pytest.raises(KeyboardInterrupt):
            compact(scored.paths.store)
    assert same(contents(scored), before)
    assert score_completions(ScoringJob.of(scored.run(score=SETTINGS))).scored == 0
    compact(scored.paths.store)
    assert same(contents(scored), before)
    assert {name: len(paths) for name, paths in files(scored).items()} == {"shards": 1, "hidden": 1, "pooled": 1}
    store = fresh(scored)
    assert [store.sidecar(shard)["rows"] for shard in store.shards()] == [40]  # no row twice


def test_a_half_removed_file_does_not_count(scored):
    """A file is removed sidecar first: killed in between, the file is a leftover."""
    before = contents(scored)
    store = fresh(scored)
    old = store.shards()
    rows = pa.concat_tables([store.table(shard) for shard in old])
    store.append(rows, {})
    old[0].with_suffix(".json").unlink()
    assert same(contents(scored), before)
    with fresh(scored).writing():
        assert not old[0].exists()
    assert same(contents(scored), before)


def test_a_reader_between_merge_and_removal_finds_everything_afterwards(scored):
    """Its index has each completion twice; when the old files go, the new one's rows must still be in it."""
    before, store = contents(scored), fresh(scored)
    old = store.shards()
    store.append(pa.concat_tables([store.table(shard) for shard in old]), {})
    assert len(fresh(scored).scores.index().ids) == 80  # saved
    for shard in old:
        shard.with_suffix(".json").unlink()
        shard.unlink()
    assert same(contents(scored), before)
    assert unpacked(fresh(scored).scores.index().ids) == before[0]["completion_id"].to_list()


def test_a_damaged_file_is_not_merged(scored):
    shard = fresh(scored).shards()[2]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="damaged"):
        compact(scored.paths.store)
    assert fresh(scored).shards()[2] == shard


def test_a_store_in_use_is_left_alone(scored):
    many = files(scored)
    with fresh(scored).writing(), pytest.raises(InputError, match="in use by another process"):
        compact(scored.paths.store)
    assert files(scored) == many


def test_provenance_says_what_all_parts_agree_on_and_where_they_differ(scored):
    first, second = {"layout": "packed", "device": "cpu", "n": 1}, {"layout": "flex", "device": "cpu", "n": 2}
    assert merged_provenance([first, second, first]) == {"layout": "flex and packed", "device": "cpu", "n": [1, 2]}
    assert merged_provenance([{}, first]) == first
    stated = fresh(scored).sidecar(fresh(scored).shards()[0])["provenance"]
    compact(scored.paths.store)
    (shard,) = fresh(scored).shards()
    assert json.loads(shard.with_suffix(".json").read_text())["provenance"] == stated


def test_a_completion_that_stands_twice_is_merged_once(scored):
    before, store = contents(scored), fresh(scored)
    store.append(store.table(store.shards()[0]), {"layout": "padded"})
    layer = store.tensors("hidden")
    layer.append(layer.read(layer.files()[0]), {})
    compact(scored.paths.store)
    store = fresh(scored)
    assert [store.sidecar(shard)["rows"] for shard in store.shards()] == [40]
    assert np.unique(store.tensors("hidden").index().ids).size == len(store.tensors("hidden").index().ids) == 40
    assert same(contents(scored), before)
    assert store.holds(pl.Series([f"{1:032x}"])).tolist() == [False]
    assert packed(store.ids().to_list()).size == 40
