"""TRL's own trainer on an export, beside its own precomputing; and what it precomputed, imported.

Needs TRL (written for 1.16), which scoreonce itself does not: `pip install trl`.
"""

import json
import os
import re

import polars as pl
import pytest
from text_runs import scored_text_run

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.token_file import TokenFile
from scoreonce.stages.exchange.export import export_reference
from scoreonce.stages.exchange.import_scores import import_reference
from scoreonce.stages.prepare.stage import prepare
from scoreonce.stages.train.stage import train

pytest.importorskip("trl", reason="needs TRL to compare with: pip install trl", exc_type=ImportError)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STEPS = 4


class Passes:
    """How often a trainer ran a reference, and how often a model."""

    reference = 0


def trainer_class(folder):
    """The trainer that stands in the folder's README, and in docs/exchange.md, as a user copies it."""
    block = re.search(r"```python\n(from trl import DPOTrainer.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names = {"__name__": "copied"}
    exec(block[1], names)
    return names["DPOTrainerOnScores"]


def counted(kind, passes):
    class Counted(kind):
        def compute_ref_log_probs(self, model, inputs):
            passes.reference += 1
            return super().compute_ref_log_probs(model, inputs)

    return Counted


def built(kind, folder, model, dataset, **settings):
    from trl import DPOConfig

    arguments = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=3,
        max_steps=STEPS,
        learning_rate=1e-3,
        precompute_ref_log_probs=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        seed=3,
        **settings,
    )
    return kind(model=str(model), args=arguments, train_dataset=dataset)


def losses(trainer):
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """TRL's trainer on the text, and on the export of the same pairs: each with its reference passes and its losses.

    They train here: whatever sets up a further trainer resets what accelerate keeps for the whole process.
    """
    from datasets import load_dataset
    from trl import DPOTrainer

    folder = tmp_path_factory.mktemp("trl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCOREONCE_CACHE", str(folder / "cache"))
        patch.setitem(os.environ, "TQDM_DISABLE", "1")
        run = scored_text_run(folder)
        exported = export_reference(run, "trl")
    own, ours = Passes(), Passes()
    text = load_dataset("json", data_files=run.data.source, split="train", cache_dir=str(folder / "datasets"))
    pairs = load_dataset(str(exported), cache_dir=str(folder / "datasets"))
    assert list(pairs) == ["train"]
    first = built(counted(DPOTrainer, own), folder, run.reference.model, text)
    expected = losses(first)
    second = built(counted(trainer_class(exported), ours), folder, run.reference.model, pairs["train"], max_length=None)
    return run, (first, own, expected), (second, ours, losses(second))


def test_the_batches_are_the_tokens_that_were_scored(both):
    run, (first, *_), (second, *_) = both
    tokens = TokenFile(RunPaths.of(run).tokens("train"))
    rows = [second.train_dataset[place] for place in range(3)]
    batch = second.data_collator(rows)
    for place in range(3):
        for side, at in (("chosen_ids", place), ("rejected_ids", 3 + place)):
            scored = [*tokens.row(place, "prompt_ids"), *tokens.row(place, side)]
            assert batch["input_ids"][at][batch["attention_mask"][at] == 1].tolist() == scored
            assert batch["completion_mask"][at].sum() == len(tokens.row(place, side))
    assert (
        batch["input_ids"] == first.data_collator([first.train_dataset[place] for place in range(3)])["input_ids"]
    ).all()


def test_its_losses_are_those_of_its_own_precomputing_and_no_reference_was_run(both):
    """12 pairs in batches of 3: TRL's own pass over the reference takes 4."""
    _, (_, own, expected), (second, ours, found) = both
    assert len(expected) == STEPS
    assert expected[-1] != pytest.approx(expected[0], rel=1e-2), "the policy has moved"
    assert found == pytest.approx(expected, rel=1e-4)
    assert (own.reference, ours.reference) == (4, 0)
    assert second.ref_model is None


def test_sums_over_fewer_tokens_are_refused(both):
    run, _, (second, *_) = both
    with pytest.raises(ValueError, match="set max_length=None"):
        built(type(second), RunPaths.of(run).out, run.reference.model, second.train_dataset, max_length=64)


def test_the_trainer_as_it_comes_does_not_take_the_export_for_text(both):
    from trl import DPOTrainer

    run, _, (second, *_) = both
    with pytest.raises(KeyError):
        built(DPOTrainer, RunPaths.of(run).out, run.reference.model, second.train_dataset, max_length=None)


def test_what_it_precomputed_is_imported_and_trains(both, tmp_path, capsys):
    """Saved by `save_to_disk`, as a user saves it, and verified on every pair."""
    run, (first, *_), _ = both
    saved = tmp_path / "saved"
    first.train_dataset.save_to_disk(str(saved))
    here = run.replace({"out": str(tmp_path / "out")})
    prepare(here)
    manifest = import_reference(here, [saved])
    assert manifest.imported.verified == 12
    known, back = (pl.read_parquet(RunPaths.of(each).reference("train")) for each in (run, here))
    assert back["pair_id"].to_list() == known["pair_id"].to_list()
    assert back["ref_margin"].to_list() == pytest.approx(known["ref_margin"].to_list(), abs=1e-3)
    train(here.replace({"train.max_steps": 2, "train.batch_pairs": 4}))
    assert "policy equals the cached reference" in capsys.readouterr().out
    lineage = json.loads(RunPaths.of(here).lineage.read_text())
    assert lineage["reference"]["store_key"] == manifest.store_key
    with pytest.raises(InputError, match="than was imported"):
        train(here.replace({"train.method": "ld_dpo", "train.max_steps": 1}))
