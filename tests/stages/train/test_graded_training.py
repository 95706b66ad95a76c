"""From real graded lists to trained policies: methods that read scores and preferences."""

import polars as pl
import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.prepare import stage as prepare
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import stage as train


def run_of(folder, shared, method, **data):
    model = str(shared / "data/models/stories260K-hf")
    source = str(shared / "data/prefs/tldr_graded_lists.jsonl.gz")
    return Run.model_validate(
        {
            "out": str(folder),
            "reference": {"model": model},
            "compute": {"device": "cpu"},
            "score": {"mismatched": True},
            "data": {"source": source, "limit": 12, "max_length": 160, "max_prompt_length": 120, **data},
            "train": {"method": method, "max_steps": 2, "batch_pairs": 4},
        }
    )


@pytest.mark.parametrize(("method", "pairing"), [("odpo", "best_of_n"), ("sppo", "best_worst"), ("kto", "rso")])
def test_methods_of_scores_train(tmp_path, shared, method, pairing):
    """With policy = reference KTO starts at 1/2, SPPO at ((P_w - 1/2)^2 + (P_l - 1/2)^2) / (2 beta^2)."""
    run = run_of(tmp_path, shared, method, pairing=pairing, preference_from_scores=1.0, rso_samples=4)
    prepare.prepare(run)
    score.score(run)
    train.train(run)
    paths = RunPaths.of(run)
    first = pl.read_parquet(paths.training / "steps.parquet").filter(pl.col("step") == 1)
    pairs = pl.read_parquet(paths.pairs("train"))
    read = first.join(pairs.unique("pair_id"), on="pair_id", maintain_order="left")
    assert first["loss"].is_finite().all()
    if method == "kto":
        assert read["loss"].to_list() == pytest.approx([0.5] * 4, abs=1e-4)
    if method == "sppo":
        squares = sum((read[f"{side}_preference"] - 0.5) ** 2 for side in ("chosen", "rejected"))
        assert read["loss"].to_list() == pytest.approx((squares / 2e-6).to_list(), rel=1e-3)


def test_training_says_where_preferences_come_from(tmp_path, shared):
    run = run_of(tmp_path, shared, "sppo")
    prepare.prepare(run)
    score.score(run)
    with pytest.raises(InputError, match="needs chosen_preference") as caught:
        train.train(run)
    assert "preference_from_scores" in caught.value.fix
