"""Embedding similarity and CHES through `score`: against the model's own hidden states, and without rescoring."""

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from scoreonce.pipeline import methods
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import ReferencePair
from scoreonce.stages.audit import stage as audit
from scoreonce.stages.common import files
from scoreonce.stages.score import stage as score
from scoreonce.stages.score.reference_table import reference_views
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.run import score_completions
from scoreonce.stages.store import maintenance as store_command
from scoreonce.stages.train import data as training_data

ASKED = {"embeddings": True, "shard_completions": 16}
NAMES = ["ref_embedding_similarity", "ref_ches", "ref_ln_ches"]


def by_hand(model, prompt, chosen, rejected):
    """The three scalars from transformers' hidden states, one unpadded sequence at a time."""
    sums = []
    for completion in (chosen, rejected):
        with torch.inference_mode():
            states = model.model(torch.tensor([[*prompt, *completion]])).last_hidden_state[0].double()
        sums.append(states[len(prompt) - 1 : -1].sum(0))
    better, worse = sums
    cosine = better @ worse / (better.norm() * worse.norm())
    ches = better @ worse - better @ better
    ln_ches = better @ worse / (len(chosen) * len(rejected)) - better @ better / len(chosen) ** 2
    return [cosine.item(), ches.item(), ln_ches.item()]


@pytest.mark.parametrize("attention", ["shared", "padded"])
def test_scalars_are_those_of_the_models_own_hidden_states(world, attention):
    pairs = world.random_pairs(20)
    world.prepare(pairs, world.random_pairs(4, seed=1))
    score.score(world.run(score=ASKED, compute={"attention": attention}))
    view = ReferencePair.validate(pl.read_parquet(world.paths.reference("train")), cast=False)
    model = AutoModelForCausalLM.from_pretrained(world.model())
    for pair, row in zip(pairs, view.select(NAMES).iter_rows(), strict=True):
        assert row == pytest.approx(by_hand(model, *pair), rel=1e-4, abs=1e-4)


def test_another_pairing_scores_nothing_again(world):
    """Chosen and rejected swapped: the same similarity, no completion scored."""
    pairs = world.random_pairs(20)
    world.prepare(pairs)
    job = ScoringJob.of(world.run(score=ASKED))
    score_completions(job)
    before = pl.concat(reference_views(job, "train"))
    world.prepare([(prompt, rejected, chosen) for prompt, chosen, rejected in pairs])
    assert score_completions(ScoringJob.of(world.run(score=ASKED))).scored == 0
    after = pl.concat(reference_views(job, "train"))
    assert after[NAMES[0]].to_list() == pytest.approx(before[NAMES[0]].to_list())
    assert (after["ref_ches"] - before["ref_ches"]).abs().min() > 1e-3


def test_asked_for_later(world):
    """What was scored without is scored once more, with the mismatched completions too; without it all is null."""
    world.prepare(world.random_pairs(12), world.random_pairs(8, seed=1))
    score.score(world.run())
    path = world.paths.reference("train")
    assert pl.read_parquet(path).select(NAMES).null_count().row(0) == (12, 12, 12)
    with pytest.raises(InputError, match="lacks pooled hidden states"):
        list(reference_views(ScoringJob.of(world.run(score=ASKED)), "train"))
    score.score(world.run(score={**ASKED, "mismatched": True}))
    assert pl.read_parquet(path).select(*NAMES, "ref_kl_logps").null_count().row(0) == (0, 0, 0, 0)
    assert score_completions(ScoringJob.of(world.run(score=ASKED))).scored == 0


def test_selection_by_quantile(world):
    """REAL keeps the half of the pairs whose completions are least alike."""
    world.prepare(world.random_pairs(20))
    score.score(world.run(score=ASKED))
    similarity = pl.read_parquet(world.paths.reference("train"))["ref_embedding_similarity"].to_numpy()
    where = "ref_embedding_similarity <= QUANTILE_CONT(ref_embedding_similarity, 0.5)"
    data = training_data.load_training_data(world.paths, methods.resolve("dpo", {}).reads, where)
    least_alike = np.flatnonzero(similarity <= np.median(similarity)).tolist()
    assert len(least_alike) == 10
    assert [data.place(pair) for pair in range(len(data))] == least_alike


def test_the_audit_has_them_by_pair_and_draws_them(world):
    """Each pair's, by hand as above; the bins of both distributions hold every pair, in the range of their values."""
    pairs = world.random_pairs(20)
    world.prepare(pairs)
    score.score(world.run(score=ASKED))
    audit.audit(world.run())
    model = AutoModelForCausalLM.from_pretrained(world.model())
    similarity, _, ln_ches = zip(*(by_hand(model, *pair) for pair in pairs), strict=True)
    table = pl.read_parquet(world.paths.audit_pairs)
    parts = {part["name"]: part["bins"] for part in files.read_json(world.paths.audit_summary)["distributions"]}
    for name, values in (("ref_embedding_similarity", similarity), ("ref_ln_ches", ln_ches)):
        assert table[name].to_list() == pytest.approx(values, rel=1e-4, abs=1e-4)
        assert sum(found["count"] for found in parts[name]) == len(pairs)
        ends = parts[name][0]["low"], parts[name][-1]["high"]
        assert ends == pytest.approx((min(values), max(values)), rel=1e-4, abs=1e-4)


def test_completion_only_data_have_none(world):
    world.prepare([(prompt, chosen, None) for prompt, chosen, _ in world.random_pairs(8)])
    score.score(world.run(score=ASKED))
    assert pl.read_parquet(world.paths.reference("train"))["ref_ches"].null_count() == 8


def test_gc_keeps_mismatched_completions_by_the_reference_view(world):
    world.prepare(world.random_pairs(12), world.random_pairs(8, seed=1))
    run = world.run(score={"mismatched": True, "shard_completions": 16})
    score.score(run)
    splits = ("train", "test")
    store_command.gc(world.paths.store, keep=[world.paths.reference(split) for split in splits])
    assert score_completions(ScoringJob.of(run)).scored == 0
    store_command.gc(world.paths.store, keep=[world.paths.pairs(split) for split in splits])
    assert score_completions(ScoringJob.of(run)).scored > 0
