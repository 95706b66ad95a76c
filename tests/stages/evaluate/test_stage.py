"""Evaluation end to end: tiny models, real prepare and score, and the store that they share."""

import json
import shutil

import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import EvaluationManifest
from scoreonce.schemas.tables import EvaluationPair
from scoreonce.stages import config
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.prepare import stage as prepare
from scoreonce.stages.score import stage as score
from scoreonce.stages.scoring import model_scorer as inference

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h", "the", "cat", "dog", "sat", "ran", "home", "now"]


def save_model(folder, seed):
    tokens = {word: index for index, word in enumerate(["<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run whose pairs are scored, and a policy that is another random model."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCOREONCE_CACHE", str(folder / "cache"))
        save_model(folder / "reference", 0)
        rows = [
            {
                "prompt": f"the {first} {second}",
                "chosen": f" {first} sat home",
                "rejected": f" {second} ran",
                "source": "cats" if index % 2 else "dogs",
            }
            for index, (first, second) in enumerate((x, y) for x in WORDS[:8] for y in WORDS[:8] if x != y)
        ]
        (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        run = make_run(folder)
        prepare.prepare(run)
        score.score(run)
        save_model(RunPaths.of(run).policy, 1)
        yield folder


def make_run(folder, **overrides):
    (folder / "run.toml").write_text(f"""
        out = "{folder / "out"}"
        [data]
        source = "{folder / "pairs.jsonl"}"
        columns = {{ source = "source" }}
        test_share = {overrides.pop("test_share", 0.5)}
        workers = 1
        [reference]
        model = "{folder / "reference"}"
        """)
    return config.load(folder / "run.toml", [f"{key}={value}" for key, value in overrides.items()])


def read(folder, label):
    results = folder / "out" / "evaluate" / label
    summary = json.loads((results / "summary.json").read_text())
    return pl.read_parquet(results / "pairs.parquet"), summary | summary["figures"]


def logps(folder, prompt, completion):
    """Sum of log-probs by the plain forward of transformers."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        table = model(ids).logits.double().log_softmax(-1)[0]
    return sum(table[len(prompt) + i - 1, token].item() for i, token in enumerate(completion))


def test_policy_columns_are_those_of_a_plain_forward(scored, capsys):
    run = make_run(scored)
    evaluate.evaluate(run)
    pairs, summary = read(scored, "dpo")
    EvaluationPair.validate(pairs)
    row = pairs.row(0, named=True)
    test = pl.read_parquet(RunPaths.of(run).pairs("test")).row(0, named=True)
    assert test["pair_id"] == row["pair_id"]
    ids = {word: index for index, word in enumerate(["<eos>", "<unk>", *WORDS])}
    prompt = [ids[word] for word in test["prompt"].split()]
    for side in ("chosen", "rejected"):
        completion = [*(ids[word] for word in test[side].split()), 0]
        assert row[f"policy_{side}_logps"] == pytest.approx(
            logps(RunPaths.of(run).policy, prompt, completion), abs=1e-4
        )
        assert row[f"ref_{side}_logps"] == pytest.approx(logps(scored / "reference", prompt, completion), abs=1e-4)
    assert row["chosen_logratios"] == row["policy_chosen_logps"] - row["ref_chosen_logps"]
    assert row["rejected_logratios"] == row["policy_rejected_logps"] - row["ref_rejected_logps"]
    assert row["margin"] == row["chosen_logratios"] - row["rejected_logratios"]
    assert summary["pairs"] == pairs.height > 10
    assert summary["accuracy"] == (pairs["margin"] > 0).mean()
    assert {entry["source"] for entry in summary["by_source"]} == {"cats", "dogs"}
    assert summary["model"] == str(RunPaths.of(run).policy)
    assert summary["weights"] != summary["reference"]["weights"]
    assert f"  accuracy              {100 * summary['accuracy']:>5.1f}%" in capsys.readouterr().out


def test_evaluating_twice_scores_nothing(scored, monkeypatch):
    evaluate.evaluate(make_run(scored))
    before = read(scored, "dpo")[0]

    def fail(*arguments, **options):
        raise AssertionError("a model was loaded although everything is in the store")

    monkeypatch.setattr(inference.ModelScorer, "load", fail)
    evaluate.evaluate(make_run(scored))
    assert read(scored, "dpo")[0].equals(before)


def test_the_reference_as_policy_is_free_and_ties(scored, monkeypatch, capsys):
    monkeypatch.setattr(inference.ModelScorer, "load", None)
    evaluate.evaluate(make_run(scored), model=str(scored / "reference"))
    pairs, summary = read(scored, "reference")
    assert pairs["margin"].to_list() == [0.0] * pairs.height
    assert (summary["accuracy"], summary["ties"]) == (0.5, 1.0)
    assert summary["store_key"] == summary["reference"]["store_key"]
    assert "50.0%" in capsys.readouterr().out


def test_another_model_has_a_label_of_its_own(scored):
    save_model(scored / "other", 2)
    evaluate.evaluate(make_run(scored), model=str(scored / "other"))
    evaluate.evaluate(make_run(scored), model=str(scored / "other"), label="rival")
    assert read(scored, "other")[0].equals(read(scored, "rival")[0])
    assert read(scored, "rival")[1]["label"] == "rival"


def test_a_label_is_a_name_and_one_process_writes_under_it(scored):
    run, other = make_run(scored), str(scored / "other (v2)")
    save_model(scored / "other (v2)", 2)
    results = evaluate.evaluate(run, model=other)
    assert results.paths.evaluation == scored / "out" / "evaluate" / "other-v2"
    for label in ("../other", ".other", "a b"):
        with pytest.raises(InputError) as caught:
            evaluate.evaluate(run, model=other, label=label)
        assert caught.value.where == "evaluate.label, or --label"
    with (
        locked(results.paths, results.paths.evaluation, "the evaluation other-v2"),
        pytest.raises(InputError, match="The evaluation other-v2 is in use"),
    ):
        evaluate.evaluate(run, model=other, lock_timeout=0)


def test_results_do_not_stand_under_the_label_of_another_policy(scored, tmp_path):
    save_model(tmp_path / "dpo", 2)
    for label in (None, "dpo"):
        with pytest.raises(InputError, match="A training run has this label") as caught:
            evaluate.evaluate(make_run(scored), model=str(tmp_path / "dpo"), label=label)
        assert "--label" in caught.value.fix


def test_without_a_policy_the_message_names_train(scored):
    with pytest.raises(InputError, match="scoreonce train"):
        evaluate.evaluate(make_run(scored, **{"train.label": "untrained"}))


def test_reference_scores_of_other_weights_are_refused(scored):
    save_model(scored / "changed", 3)
    with pytest.raises(InputError, match="another reference") as caught:
        evaluate.evaluate(make_run(scored, **{"reference.model": scored / "changed"}))
    assert "scoreonce score" in str(caught.value)


def test_absent_or_damaged_reference_scores_are_refused(scored):
    paths = RunPaths.of(make_run(scored))
    for path, what in (
        (paths.reference_manifest, "no reference scores"),
        (paths.reference("test"), "missing"),
    ):
        hidden = path.rename(path.with_name("hidden"))
        with pytest.raises(InputError, match=what):
            evaluate.evaluate(make_run(scored))
        hidden.rename(path)


def test_the_summary_vouches_for_the_table_and_names_what_was_compared(scored):
    run = make_run(scored)
    evaluate.evaluate(run)
    paths = RunPaths.of(run)
    manifest = manifests.read(EvaluationManifest, paths.evaluation_summary)
    there = [paths.evaluation / name for name in ("pairs.parquet", "verdict.json")]
    assert manifest.files == {path.name: sha256(path) for path in there}
    assert manifest.pairs_manifest_sha256 == sha256(paths.pairs_manifest)
    assert manifest.reference.model == str(scored / "reference")
    assert manifest.training_identity is None  # no run of `train` made this policy


def test_scores_of_other_pairs_are_refused(scored, tmp_path):
    """Prepared anew with another share, and scores and policy of the pairs before put back beside them."""
    out = shutil.copytree(scored / "out", tmp_path / "out")
    run = make_run(scored, out=out, test_share=0.25)
    prepare.prepare(run, restart=True)
    for made in ("reference", "train"):
        shutil.copytree(scored / "out" / made, out / made, dirs_exist_ok=True)
    with pytest.raises(InputError, match=r"(?s)those of other pairs.*scoreonce score"):
        evaluate.evaluate(run)
    make_run(scored)


def test_no_held_out_pairs_names_the_key(scored, tmp_path):
    run = make_run(scored, out=tmp_path / "out", **{"data.test_share": 0})
    prepare.prepare(run)
    RunPaths.of(run).policy.mkdir(parents=True)
    with pytest.raises(InputError, match=r"data\.test_share"):
        evaluate.evaluate(run)
