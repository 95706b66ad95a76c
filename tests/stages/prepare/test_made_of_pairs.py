"""`prepare` never takes pairs away from what was made of them unasked."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from written import lineage

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import manifests
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.prepare import stage as prepare
from scoreonce.stages.prepare.made_of_pairs import MadeOfPairs


@pytest.fixture
def run(tmp_path):
    """A run of twelve pairs, one token per word."""
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(["<unk>", "</s>", "a", "b"])}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    write_rows(tmp_path / "raw.jsonl", 12)
    return Run.model_validate(
        {
            "out": str(tmp_path / "out"),
            "reference": {"model": str(tmp_path / "tokenizer")},
            "data": {"source": str(tmp_path / "raw.jsonl"), "test_share": 0},
        }
    )


def write_rows(path, count):
    rows = [{"prompt": "a " * (number + 1), "chosen": "a", "rejected": "b"} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def with_results(paths):
    """What score, train and evaluate leave behind, as far as `prepare` looks at it."""
    made = [
        paths.reference("train"),
        paths.store / "key" / "shards" / "one.parquet",
        paths.out / "train" / "dpo" / "model" / "model.safetensors",
        paths.out / "train" / "ipo+batch_beta" / "metrics.jsonl",
        paths.out / "evaluate" / "dpo" / "summary.json",
    ]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return made


def test_pairs_without_results_are_replaced(run):
    prepare.prepare(run)
    assert prepare.prepare(run.replace({"data.limit": 5})).counts.train == 5


def test_a_changed_tokenizer_is_named(run):
    with_results(prepare.prepare(run).paths)
    file = Path(run.reference.model) / "tokenizer.json"
    file.write_text(file.read_text().replace('"a"', '"c"'))
    with pytest.raises(InputError, match="would be lost") as caught:
        prepare.prepare(run)
    assert caught.value.found.startswith(f"tokenizer of {run.reference.model}: prepared with ")


def test_a_changed_setting_says_what_would_be_lost_and_keeps_it(run):
    paths = prepare.prepare(run).paths
    made = with_results(paths)
    before = paths.pairs_manifest.read_bytes()
    changed = run.replace({"data.limit": 5, "data.max_length": 64})
    with pytest.raises(InputError, match="would be lost") as caught:
        prepare.prepare(changed)
    assert [line.strip() for line in caught.value.found.splitlines()] == [
        "data.limit: prepared with nothing, now 5",
        "data.max_length: prepared with 1024, now 64",
        f"made of these pairs: the reference scores in {paths.out}/reference; the training runs dpo, ipo+batch_beta; "
        "the evaluation dpo",
    ]
    assert "--restart" in caught.value.fix
    assert str(paths.store) in caught.value.fix
    assert paths.pairs_manifest.read_bytes() == before
    assert all(path.exists() for path in made)


def test_other_rows_in_the_same_file_count_and_the_same_pairs_do_not(run, tmp_path):
    paths = prepare.prepare(run).paths
    made = with_results(paths)
    paths.pairs("train").write_bytes(b"damaged")  # made anew, the same
    prepare.prepare(run)
    write_rows(tmp_path / "raw.jsonl", 13)
    with pytest.raises(InputError, match="would be lost") as caught:
        prepare.prepare(run)
    assert f"data file {tmp_path}/raw.jsonl" in caught.value.found
    assert all(path.exists() for path in made)


def test_pairs_without_a_manifest_are_known_by_the_lineage_of_a_run(run):
    """It was prepared from hh.jsonl with 192 tokens; settings that it does not name are not compared."""
    paths = prepare.prepare(run).paths
    made = with_results(paths)
    paths.pairs_manifest.unlink()
    prepare.prepare(run)
    paths.pairs_manifest.unlink()
    manifests.write(paths.out / "train" / "dpo" / "lineage.json", lineage("dpo"))
    with pytest.raises(InputError, match="would be lost") as caught:
        prepare.prepare(run)
    assert [line.strip() for line in caught.value.found.splitlines()][:2] == [
        "data.max_length: prepared with 192, now 1024",
        f'data.source: prepared with "hh.jsonl", now "{run.data.source}"',
    ]
    assert all(path.exists() for path in made)
    prepare.prepare(run, restart=True)
    assert not made[0].exists()


def test_restart_deletes_the_results_and_leaves_the_store_and_links_targets(run, tmp_path, capsys):
    paths = prepare.prepare(run).paths
    scores, shard, model, metrics, summary = with_results(paths)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    (paths.out / "train" / "linked").symlink_to(mine)
    assert prepare.prepare(run.replace({"data.limit": 5}), restart=True).counts.train == 5
    assert not any(path.exists() for path in (scores, model, metrics, summary))
    assert not list((paths.out / "train").iterdir())
    assert shard.exists()
    assert (mine / "thesis.txt").exists()
    assert "Deleted the reference scores in" in capsys.readouterr().out


def test_exports_and_a_comparison_are_made_of_the_pairs_too(run):
    paths = prepare.prepare(run).paths
    made = [paths.export("trl") / "train.parquet", paths.trials]
    for path in made:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    changed = run.replace({"data.limit": 5})
    with pytest.raises(InputError, match="would be lost") as caught:
        prepare.prepare(changed)
    assert f"the export trl; the comparison in {paths.comparison}" in caught.value.found
    prepare.prepare(changed, restart=True)
    assert not any(path.exists() for path in made)


def test_restart_with_unusable_data_deletes_nothing(run):
    made = with_results(prepare.prepare(run).paths)
    with pytest.raises(InputError, match="Not one row can be used"):
        prepare.prepare(run.replace({"data.max_length": 2, "data.truncation": "drop"}), restart=True)
    assert all(path.exists() for path in made)


def test_restart_with_unchanged_data_deletes_nothing(run):
    made = with_results(prepare.prepare(run).paths)
    prepare.prepare(run, restart=True)
    assert all(path.exists() for path in made)


@pytest.mark.parametrize("held", ["pairs", "train/dpo", "evaluate/dpo"])
def test_folders_that_another_process_writes_stay(run, held):
    paths = prepare.prepare(run).paths
    made = with_results(paths)
    changed = run.replace({"data.limit": 5})
    with (
        locked(paths, paths.out / held, f"the folder {held}"),
        pytest.raises(InputError, match=f"{held} is in use by another process"),
    ):
        prepare.prepare(changed, restart=True, lock_timeout=0)
    assert all(path.exists() for path in made)
    prepare.prepare(changed, restart=True, lock_timeout=0)


def test_what_was_made_in_words():
    one, two = Path("runs/x/train/dpo"), Path("runs/x/train/ipo")
    assert str(MadeOfPairs([], [one, two], [one])) == "the training runs dpo, ipo; the evaluation dpo"
    others = MadeOfPairs(exports=[Path("runs/x/export/trl")], comparison=[Path("runs/x/compare")])
    assert str(others) == "the export trl; the comparison in runs/x/compare"
    assert RunPaths(Path("runs/x"), Path("runs/x/store"), "dpo").lock(one) == Path("runs/x/.locks/train-dpo.lock")
