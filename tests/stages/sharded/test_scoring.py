"""Scoring and evaluation with a model in parts: the rows that one process writes."""

import polars as pl
import pytest
from launches import launch
from polars.testing import assert_frame_equal
from safetensors.torch import load_file

from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.evaluate.stage import evaluate
from scoreonce.stages.score.stage import score
from scoreonce.stages.store.store import ReferenceStore

LAYERS = {"full_vocab": "hidden", "embeddings": True, "mismatched": True}


def rows(run):
    """The scores and hidden states of a store, by completion."""
    store = ReferenceStore.of(run, run.reference)
    scores = pl.concat([pl.read_parquet(path) for path in store.shards()]).sort("completion_id")
    states = [load_file(path) for path in store.tensors("hidden").files()]
    return scores, sorted(float(part["hidden"].double().sum()) for part in states), len(store.shards())


@pytest.mark.slow
def test_two_processes_with_a_part_each_score_what_one_process_does(world):
    """Seven shards: in the last round one process has none, and takes part in the forward passes of the other."""
    world.prepare(world.random_pairs(40), world.random_pairs(8, seed=1))
    one = world.run(score=LAYERS)
    two = world.run(score={**LAYERS, "store": str(world.folder / "other")}, compute={"shard": "full"})
    launch("score", [two], 2)
    found = rows(two)
    score(one)
    wanted = rows(one)
    store = ReferenceStore.of(two, two.reference)
    assert all(store.sidecar(shard)["provenance"]["sharded"] for shard in store.shards())
    assert found[2] % 2 == 1
    assert_frame_equal(found[0], wanted[0], abs_tol=1e-4)
    assert found[1] == pytest.approx(wanted[1], abs=1e-2)
    launch("evaluate", [two.replace({"evaluate.model": two.reference.model, "evaluate.label": "parts"})], 2)
    evaluate(one.replace({"evaluate.model": one.reference.model, "evaluate.label": "whole"}))
    tables = [
        pl.read_parquet(RunPaths.of(one.replace({"train.label": label})).evaluation_pairs)
        for label in ("parts", "whole")
    ]
    assert tables[0].equals(tables[1])
