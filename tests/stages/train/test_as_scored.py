"""The forward pass of training and evaluation is that of the scores, or it is said what is not."""

import pytest

from scoreonce.schemas.manifests import ReferenceManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Reference
from scoreonce.stages.evaluate.stage import evaluate
from scoreonce.stages.score.stage import score
from scoreonce.stages.store.store import ReferenceStore
from scoreonce.stages.train.stage import train

FAST = {"learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 2, "method": "dpo"}


def layouts(store):
    return [store.sidecar(shard)["provenance"]["layout"] for shard in store.shards()]


def test_the_layout_of_the_scores_is_used_again(world, capsys):
    """Shared rows are exact on a CPU and slower than packed ones, which all stages would choose by themselves."""
    pairs, held_out = world.random_pairs(24), world.random_pairs(4, seed=1)
    world.prepare(pairs[:12], held_out)
    score(world.run(compute={"attention": "shared"}))
    world.prepare(pairs, held_out)
    run = world.run(train=FAST)
    score(run)
    store = ReferenceStore.of(run)
    assert set(layouts(store)) == {"shared"}
    assert len(layouts(store)) > 2
    train(run)
    said = capsys.readouterr().out
    assert "shared rows" in said
    assert "policy equals the cached reference" in said
    assert "when scored" not in said
    assert "note: the reference" not in said
    evaluate(run)
    policy = Reference(model=str(RunPaths.of(run).policy), dtype="float32")
    assert layouts(ReferenceStore.of(run, policy)) == ["shared"]


@pytest.mark.parametrize(
    ("scored", "attention", "reason"),
    [
        ("flash", "auto", "packed rows are used here (flash: not for LlamaForCausalLM on cpu)"),
        ("flash and flex", "auto", "packed rows are used here (one layout has to be taken)"),
        ("packed", "padded", "padded rows are used here (compute.attention)"),
    ],
)
def test_what_is_otherwise_is_said(world, capsys, scored, attention, reason):
    world.prepare(world.random_pairs(12), world.random_pairs(4, seed=1))
    score(world.run())
    path = world.paths.reference_manifest
    manifest = manifests.read(ReferenceManifest, path)
    assert manifest.computed["device"] == "cpu"
    assert manifest.computed["compiled"] == "no"
    manifests.write(
        path, manifest.model_copy(update={"layout": scored, "computed": manifest.computed | {"torch": "0.1"}})
    )
    capsys.readouterr()
    train(world.run(train=FAST, compute={"attention": attention}))
    said = capsys.readouterr().out
    assert f"note: the reference was scored in {scored} rows, and {reason}: log-probs of the same weights" in said
    assert f"layout {scored} when scored, {attention if attention != 'auto' else 'packed'} here" in said
    assert "torch 0.1 when scored" in said
