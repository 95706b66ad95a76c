"""KTO from cached scores: which completion meets which prompt, its scores, and training on the three of a row."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from scoreonce.pipeline import methods
from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id
from scoreonce.schemas.tables import ReferencePair
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.mismatched import mismatched_completions
from scoreonce.stages.models.loading import load_model
from scoreonce.stages.score import stage as score
from scoreonce.stages.scoring.estimate import estimate_scoring
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.run import score_completions
from scoreonce.stages.train import data as training_data
from scoreonce.stages.train import stage as train

MISMATCHED = {"mismatched": True, "shard_completions": 16}
FAST = {"method": "kto", "learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 3}
READS = methods.resolve("kto", {}).reads
A, B, C = [1, 5], [1, 6, 7], [1, 8]


def by_hand(world, rows):
    """Summed log-probs, one row and one completion at a time, by the plain padded layout."""
    scorer = TokenScorer(load_model(str(world.model()), dtype="float32", device=torch.device("cpu")), "padded")
    with torch.inference_mode():
        return [scorer([row]).sums().item() for row in rows]


def test_each_prompt_meets_the_next_pairs_completion(world):
    """Pairs of prompts A A B C A: both A meet B's, B meets C's, C the last A's; the last A skips the first two."""
    prompts = [A, A, B, C, A]
    paths = world.prepare([(prompt, [number, 2], [3]) for number, prompt in enumerate(prompts, 9)])
    met = mismatched_completions(paths, "train")
    assert met["donor"].to_list() == [2, 2, 3, 4, 2]
    assert met["kl_len"].to_list() == [2] * 5
    assert met["kl_id"].to_list() == [
        completion_id(*pair) for pair in [(A, [11, 2]), (A, [11, 2]), (B, [12, 2]), (C, [13, 2]), (A, [11, 2])]
    ]


def test_copies_of_a_pair_meet_one_completion_and_long_ones_are_cut(world):
    """max_length is 64 and B takes 3 tokens, A 2: of C's 70 tokens 61 and 62 fit. The second A is a copy."""
    long = [9] * 70
    paths = world.prepare([(A, [9, 2], [3]), (C, long, [3]), (A, [9, 2], [3]), (B, [4, 2], [3]), (C, long, [5])])
    met = mismatched_completions(paths, "train")
    assert met["donor"].to_list() == [1, 3, 1, 4, 0]
    assert met["kl_len"].to_list() == [62, 2, 62, 61, 2]
    score.score(world.run(score=MISMATCHED))
    view = pl.read_parquet(paths.reference("train"))
    rows = [(A, long[:62]), (C, [4, 2]), (B, long[:61]), (C, [9, 2])]
    expected = by_hand(world, [PromptRow(np.int32(prompt), (np.int32(ids),)) for prompt, ids in rows])
    np.testing.assert_allclose(view["ref_kl_logps"], expected, atol=1e-4)  # the copy stands once


def test_one_prompt_alone_is_refused(world):
    paths = world.prepare([(A, [9, 2], [3]), (A, [10, 2], [3])])
    with pytest.raises(InputError, match="different prompts"):
        mismatched_completions(paths, "train")


@pytest.fixture
def scored(world):
    world.prepare(world.random_pairs(40), world.random_pairs(8, seed=1))
    score.score(world.run(score=MISMATCHED))
    return world


def test_scores_of_mismatched_completions(scored):
    paths = scored.paths
    view = ReferencePair.validate(pl.read_parquet(paths.reference("train")), cast=False)
    data = training_data.load_training_data(paths, READS)
    rows = [data.row(pair) for pair in range(len(data))]
    assert {len(row.completions) for row in rows} == {3}
    third = [PromptRow(row.prompt, row.completions[2:]) for row in rows]
    np.testing.assert_allclose(view["ref_kl_logps"], by_hand(scored, third), atol=1e-4)
    assert view["kl_len"].to_list() == [len(row.completions[2]) for row in rows]
    assert view["kl_id"].to_list() == [completion_id(row.prompt, row.completions[2]) for row in rows]
    assert data.longest_row - 3 == max(row.tokens for row in rows)  # last tokens count for the padded layout
    assert pl.read_parquet(paths.reference("test"))["ref_kl_logps"].null_count() == 8  # nothing there is trained on


def test_only_the_mismatched_completions_are_new(world, capsys):
    world.prepare(world.random_pairs(40), world.random_pairs(8, seed=1))
    score.score(world.run())
    assert pl.read_parquet(world.paths.reference("train"))["ref_kl_logps"].null_count() == 40
    job = ScoringJob.of(world.run(score=MISMATCHED))
    distinct = set(mismatched_completions(world.paths, "train")["kl_id"])
    left = estimate_scoring(job)
    assert (left.completions, left.pairs) == (len(distinct), 40)
    assert score_completions(job).scored == len(distinct)
    capsys.readouterr()
    score.score(world.run(score=MISMATCHED))
    assert "nothing: all" in capsys.readouterr().out
    assert pl.read_parquet(world.paths.reference("train"))["ref_kl_logps"].null_count() == 0


def test_training_is_the_method_on_the_three_completions(scored):
    """A step of 8 pairs in order: its losses by `methods.apply` on log-probs by hand; 1/2 where policy = reference."""
    other = scored.model("other", seed=14)
    run = scored.run(train={**FAST, "model": str(other), "shuffle": False, "max_steps": 1})
    train.train(run)
    found = pl.read_parquet(RunPaths.of(run).training / "steps.parquet")
    data = training_data.load_training_data(scored.paths, READS)
    scorer = TokenScorer(load_model(str(other), dtype="float32", device=torch.device("cpu")), "padded")
    with torch.inference_mode():
        policy = scorer([data.row(pair) for pair in range(8)]).sums().view(8, 3)
    columns = {name: torch.tensor(values[:8]) for name, values in data.columns.items()}
    columns |= {f"policy_{side}_logps": policy[:, number] for number, side in enumerate(("chosen", "rejected", "kl"))}
    assert (columns["policy_kl_logps"] - columns["ref_kl_logps"]).mean() > 0.1  # so that z is not cut to 0
    expected = methods.apply("kto", columns)
    torch.testing.assert_close(torch.tensor(found["loss"].to_list()), expected.losses.float(), rtol=1e-4, atol=1e-5)
    same = scored.run(train={**FAST, "label": "same", "max_steps": 1})
    train.train(same)
    assert pl.read_parquet(RunPaths.of(same).training / "metrics.parquet")["loss"][0] == pytest.approx(0.5, abs=1e-5)


def test_micro_batches_do_not_change_the_weights(scored):
    weights = []
    for budget in (100_000, 120, 1):
        run = scored.run(train={**FAST, "label": f"kto{budget}"}, compute={"tokens_per_microbatch": budget})
        train.train(run)
        weights.append(load_file(RunPaths.of(run).policy / "model.safetensors"))
    for other in weights[1:]:
        for name, tensor in weights[0].items():
            torch.testing.assert_close(tensor, other[name], rtol=2e-5, atol=2e-5)


def test_training_says_what_to_score(world):
    world.prepare(world.random_pairs(10))
    score.score(world.run())
    with pytest.raises(InputError, match="needs ref_kl_logps") as caught:
        train.train(world.run(train=FAST))
    assert "score.mismatched" in caught.value.fix


def test_pairs_in_another_order_must_be_scored_again(scored):
    """The pairs are the same, so every other column is found; the mismatched completions are others."""
    order = scored.random_pairs(40)
    scored.prepare(order[::-1], scored.random_pairs(8, seed=1))
    with pytest.raises(InputError, match="not those of the prepared pairs"):
        training_data.load_training_data(scored.paths, READS)
    score.score(scored.run(score=MISMATCHED))
    assert math.isfinite(training_data.load_training_data(scored.paths, READS).columns["ref_kl_logps"].sum())


def test_selected_pairs_keep_the_completions_they_met(scored):
    """Every other pair is left out; the donors are rows of the token file, not of the selection."""
    whole = training_data.load_training_data(scored.paths, READS)
    part = training_data.load_training_data(scored.paths, READS, where="row % 2 = 1")
    assert len(part) == 20
    for pair in range(20):
        expected = whole.row(2 * pair + 1).completions
        assert [ids.tolist() for ids in part.row(pair).completions] == [ids.tolist() for ids in expected]
