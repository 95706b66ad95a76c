"""Scoring and evaluation with a model in parts: the rows that one process writes."""

import polars as pl
import pytest
import torch
from launches import launch
from polars.testing import assert_frame_equal
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.evaluate.stage import evaluate
from scoreonce.stages.models.adapters import deprecations_ignored
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
    further = {"other": {"plus": {"model": str(world.model("plus", seed=1))}}}
    one = world.run(score=LAYERS, reference=further)
    two = one.replace({"score.store": str(world.folder / "other"), "compute.shard": "full"})
    plus = RunPaths.of(one).of_other("plus")
    launch("score", [two], 2)
    found, of_plus = rows(two), pl.read_parquet(plus.reference("train"))
    plus.reference_manifest.unlink()  # so that the table is written again, from the other store
    score(one)
    wanted = rows(one)
    assert_frame_equal(of_plus, pl.read_parquet(plus.reference("train")), abs_tol=1e-4)
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
    assert_frame_equal(*tables, abs_tol=1e-4)  # sums by as many threads as a process has


def adapter(world, seed):
    """A LoRA of the world's model whose matrices are all random."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(world.model())
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    folder = world.folder / f"adapter-{seed}"
    with deprecations_ignored():
        peft.get_peft_model(model, config).save_pretrained(str(folder))
    return str(folder)


@pytest.mark.long
def test_two_processes_score_and_evaluate_models_with_an_adapter(world):
    world.prepare(world.random_pairs(12), world.random_pairs(8, seed=1))
    reference = {"adapter": adapter(world, 1)}
    one = world.run(reference=reference)
    two = world.run(reference=reference, score={"store": str(world.folder / "other")}, compute={"shard": "full"})
    policy = {"evaluate.model": adapter(world, 2)}
    launch("score", [two], 2)
    shards = ReferenceStore.of(two, two.reference).shards()
    found = pl.concat([pl.read_parquet(path) for path in shards]).sort("completion_id")
    launch("evaluate", [two.replace({**policy, "evaluate.label": "parts"})], 2)
    score(one)
    shards = ReferenceStore.of(one, one.reference).shards()
    assert_frame_equal(found, pl.concat([pl.read_parquet(path) for path in shards]).sort("completion_id"), abs_tol=1e-4)
    evaluate(one.replace({**policy, "evaluate.label": "whole"}))
    tables = [
        pl.read_parquet(RunPaths.of(one.replace({"train.label": label})).evaluation_pairs)
        for label in ("parts", "whole")
    ]
    assert_frame_equal(*tables, abs_tol=1e-4)
    assert (tables[0]["policy_chosen_logps"] - tables[0]["ref_chosen_logps"]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"reference": {"quantization": "nf4"}, "compute": {"shard": "full"}}, ["reference.quantization", "'full'"]),
        (
            {"reference": {"other": {"plus": {"model": "m", "quantization": "nf4"}}}, "compute": {"shard": "hybrid"}},
            ["reference.other.plus.quantization", "'hybrid'"],
        ),
        ({"reference": {"quantization": "nf4"}, "compute": {"offload": True}}, ["compute.offload = true"]),
    ],
)
def test_a_model_in_4_bits_is_refused_before_any_is_scored(world, keys, found):
    """Before the pairs are looked at, which are not prepared here, and before the reference of the second is scored."""
    with pytest.raises(InputError, match="in 4 bits is not sharded") as caught:
        score(world.run(**keys))
    assert all(each in caught.value.found for each in found)
    assert "compute.shard" in caught.value.fix
