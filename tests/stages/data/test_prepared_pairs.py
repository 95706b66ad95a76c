"""Whether the prepared pairs are still those that a run file asks for, in every stage that builds on them."""

import json

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from scoreonce.pipeline.text.tokenize import text_encoder
from scoreonce.schemas.errors import InputError
from scoreonce.stages.audit import stage as audit
from scoreonce.stages.cli import run_command
from scoreonce.stages.common import digests, manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.prepared_pairs import data_settings, read_pairs, require_pairs
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.models.tokenizers import load_tokenizer
from scoreonce.stages.raw.raw_data import local_inputs
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import stage as train


def prepared_from(world, source, **data):
    """Pairs under a manifest that says they were made of the files of `source`."""
    paths = world.prepare(world.random_pairs(12), world.random_pairs(4, seed=1))
    run = world.run(data={"source": str(source), **data})
    inputs = local_inputs(str(source), run.data.split)
    if run.data.test_source:
        inputs |= local_inputs(run.data.test_source, run.data.test_split)
    made = read_pairs(paths).model_copy(update={"config": data_settings(run.data), "inputs": inputs})
    manifests.write(paths.pairs_manifest, made)
    return run


def differences(run) -> list[str]:
    with pytest.raises(InputError, match="prepared from other data or settings") as caught:
        require_pairs(run)
    assert "scoreonce prepare" in caught.value.fix
    return [line.strip() for line in caught.value.found.splitlines()]


@pytest.mark.parametrize("stage", [score.score, train.train, evaluate.evaluate, audit.audit])
def test_every_stage_stops_where_the_data_section_changed(world, stage):
    world.prepare(world.random_pairs(12), world.random_pairs(4, seed=1))
    score.score(world.run())
    RunPaths.of(world.run()).policy.mkdir(parents=True)
    out = world.folder / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(InputError) as caught:
        stage(world.run(data={"max_length": 400, "columns": {"source": "subset"}}))
    assert "data.max_length: prepared with 64, now 400" in caught.value.found
    assert 'data.columns.source: prepared with nothing, now "subset"' in caught.value.found
    assert "scoreonce prepare" in caught.value.fix
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_the_command_leaves_with_two(world, capsys):
    world.prepare(world.random_pairs(12))
    run = world.folder / "run.toml"
    run.write_text(
        f'out = "{world.folder / "out"}"\n[data]\nsource = "none"\nmax_length = 400\n[reference]\nmodel = "none"\n'
    )
    assert run_command(["score", str(run)]) == 2
    assert "data.max_length: prepared with 64, now 400" in capsys.readouterr().err


def test_workers_change_no_pair(world):
    world.prepare(world.random_pairs(12))
    assert require_pairs(world.run(data={"workers": 3})).counts.train == 12


def test_a_source_that_grew_or_changed(world, tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text("{}\n")
    run = prepared_from(world, source)
    require_pairs(run)
    source.touch()
    require_pairs(run)  # touched, and still the same
    source.write_text("{}\n{}\n")
    (found,) = differences(run)
    assert found.startswith(f'data file {source}: prepared with "3 bytes, SHA-256 ')
    assert ', now "6 bytes, SHA-256 ' in found


def test_files_that_come_and_go_in_a_folder(world, tmp_path):
    folder, held_out = tmp_path / "data", tmp_path / "held.jsonl"
    folder.mkdir()
    held_out.write_text("{}\n")
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text("{}\n")
    run = prepared_from(world, folder, test_source=str(held_out))
    (folder / "b.jsonl").rename(folder / "c.jsonl")
    assert [line.split(":")[0] for line in differences(run)] == [
        f"data file {folder / name}.jsonl" for name in ("b", "c")
    ]
    held_out.write_text("[]\n")
    assert len(differences(run)) == 3


def test_data_that_are_gone_or_on_the_hub_are_not_compared(world, tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text("{}\n")
    run = prepared_from(world, source)
    source.unlink()
    assert require_pairs(run).inputs[str(source)].size == 3
    world.prepare(world.random_pairs(12))
    assert require_pairs(world.run())  # "none" is no file here


def test_another_source_is_named_once(world, tmp_path):
    """Its files differ too, which says no more."""
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("{}\n")
    two.write_text("{}\n{}\n")
    prepared_from(world, one)
    assert differences(world.run(data={"source": str(two)})) == [
        f"data.source: prepared with {json.dumps(str(one))}, now {json.dumps(str(two))}"
    ]


def test_a_source_is_hashed_once(world, tmp_path, monkeypatch):
    """Not at the start of every stage."""
    import os

    source = tmp_path / "pairs.jsonl"
    source.write_text("{}\n")
    os.utime(source, ns=(10**18, 10**18))
    run = prepared_from(world, source)
    hashed = []
    original = digests.sha256
    monkeypatch.setattr(digests, "sha256", lambda path: (hashed.append(path), original(path))[1])
    require_pairs(run)
    require_pairs(run)
    assert source not in hashed


def tokenizer(folder, *words):
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(["</s>", *words])}, unk_token="</s>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(folder)
    return str(folder)


def test_another_tokenizer_counts_by_what_it_does(world, tmp_path):
    """A copy under another name gives the same ids; one with other words does not."""
    one, copy, other = (
        tokenizer(tmp_path / name, *words) for name, words in (("one", "ab"), ("copy", "ab"), ("other", "abc"))
    )
    paths = world.prepare(world.random_pairs(12))
    manifest = read_pairs(paths)
    digest = text_encoder(load_tokenizer(one)).digest
    made_with = manifest.tokenizer.model_copy(update={"name": one, "digest": digest})
    manifests.write(paths.pairs_manifest, manifest.model_copy(update={"tokenizer": made_with}))
    require_pairs(world.run(data={"tokenizer": copy}))
    assert differences(world.run(data={"tokenizer": other})) == [
        f"data.tokenizer: prepared with {json.dumps(one)}, now {json.dumps(other)}"
    ]
