"""Layers of tensors and the head: found by id, checked before use, repaired by `score`, seen by every command."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_model

from scoreonce.schemas.errors import InputError
from scoreonce.stages.models import loading
from scoreonce.stages.score import stage as score
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.run import score_completions
from scoreonce.stages.store import maintenance
from scoreonce.stages.store.codecs import TensorBlock
from scoreonce.stages.store.identity import StoreIdentity
from scoreonce.stages.store.index import packed
from scoreonce.stages.store.store import ReferenceStore
from scoreonce.stages.store.tensor_rows import TensorRows
from scoreonce.stages.train import stage as train

FORMS = {
    "hidden": {"full_vocab": "hidden", "embeddings": True},
    "hidden-int8": {"full_vocab": "hidden", "hidden": "int8"},
    "topk-tail-8": {"full_vocab": "topk", "topk": 8},
    "pooled": {"embeddings": True},
}


def ids(*numbers: int) -> list[str]:
    return [f"{number:032x}" for number in numbers]


def block(lengths: dict[int, int]) -> TensorBlock:
    """Completion n has rows (n, 0), (n, 1), ..."""
    rows = [[number, row] for number, length in lengths.items() for row in range(length)]
    values = torch.tensor(rows, dtype=torch.bfloat16)
    return TensorBlock(packed(ids(*lengths)), np.array(list(lengths.values())), {"hidden": values})


@pytest.fixture
def store(tmp_path) -> ReferenceStore:
    store = ReferenceStore(tmp_path / "plain", StoreIdentity("w" * 64, "float32"), "tiny")
    with store.writing():
        store.tensors("hidden").append(block({7: 2, 3: 1}), {"layout": "packed"})
        store.tensors("hidden").append(block({5: 3}), {"layout": "packed"})
    return store


def flip(path: Path, *, keep_date: bool = False) -> None:
    """Change one bit near the end: of a tensor, not of a header."""
    before, contents = path.stat(), bytearray(path.read_bytes())
    contents[-7] ^= 1
    path.write_bytes(bytes(contents))
    if keep_date:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_rows_come_back_by_id(store):
    rows = TensorRows(ReferenceStore.at(store.folder).tensors("hidden"))
    assert rows.read(ids(5, 3, 7), "hidden").tolist() == [[5, 0], [5, 1], [5, 2], [3, 0], [7, 0], [7, 1]]
    assert rows.missing(pl.Series(ids(5, 6, 3, 8))) == 2
    with pytest.raises(InputError, match=f"nothing of completion {ids(6)[0]}"):
        rows.read(ids(5, 6), "hidden")


@pytest.mark.parametrize("wrong", [lambda numbers: numbers[::-1], lambda numbers: numbers + 999])
def test_an_index_that_leads_to_another_completion_is_made_again(store, wrong, caplog):
    """Two row numbers exchanged: 3 and 7 share a block, each is where the other stands. Or beyond the last row."""
    rows = TensorRows(store.tensors("hidden"))
    numbers = rows._index.rows.copy()
    at = np.searchsorted(rows._index.ids, packed(ids(3, 7)))
    numbers[at] = wrong(numbers[at])
    rows._index = replace(rows._index, rows=numbers)
    assert rows.read(ids(3), "hidden").tolist() == [[3, 0]]
    assert "the index of" in caplog.text
    assert rows.read(ids(5), "hidden").tolist() == [[5, 0], [5, 1], [5, 2]]


def test_few_blocks_are_open_at_a_time(store, monkeypatch):
    monkeypatch.setattr("scoreonce.stages.store.tensor_rows.OPEN_BLOCKS", 1)
    rows = TensorRows(store.tensors("hidden"))
    for _ in range(3):
        assert rows.read(ids(5, 7), "hidden").tolist() == [[5, 0], [5, 1], [5, 2], [7, 0], [7, 1]]
    assert len(rows._open) == 1


def test_others_may_read_what_one_wrote(store):
    """safetensors makes its files private to their owner."""
    file, sidecar = (path.stat().st_mode for path in sorted(store.tensors("hidden").folder.iterdir())[1::-1])
    assert file == sidecar


@pytest.mark.parametrize("keep_date", [False, True])
def test_a_flipped_bit_is_noticed_before_the_first_use(store, keep_date):
    """With its date kept too, as where a disk loses a bit: what is used is read by every process."""
    layer = ReferenceStore.at(store.folder).tensors("hidden")
    layer.index()  # which vouches for the files from now on
    first, second = layer.files()
    flip(second, keep_date=keep_date)
    layer = ReferenceStore.at(store.folder).tensors("hidden")
    with pytest.raises(InputError, match="SHA-256") as raised:
        TensorRows(layer).read(ids(5), "hidden")
    assert raised.value.where == str(second)
    assert 'score.full_vocab = "hidden"' in raised.value.fix
    # The index vouches no longer, so that `score` finds it whatever its date.
    again = ReferenceStore.at(store.folder)
    assert [damage.path for damage in again.new_damage()] == [second]
    with again.writing():
        again.set_aside_damaged()
    rows = TensorRows(ReferenceStore.at(store.folder).tensors("hidden"))
    assert rows.missing(pl.Series(ids(5, 3))) == 1
    assert first.exists()


@pytest.mark.parametrize("failing", ["safetensors", "sidecar"])
def test_a_block_that_cannot_be_finished_leaves_nothing(store, monkeypatch, failing):
    where = {"safetensors": "codecs.save_tensors", "sidecar": "sidecar.write_json"}[failing]
    before = sorted(store.tensors("hidden").folder.iterdir())

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"scoreonce.stages.store.{where}", fails)
    with pytest.raises(InputError, match="cannot be written"):
        store.tensors("hidden").append(block({9: 1}), {})
    assert sorted(store.tensors("hidden").folder.iterdir()) == before


def test_leftovers_of_every_layer_go_with_the_next_writer(store):
    strays = [store.tensors("hidden").folder / name for name in (".x.safetensors.7.tmp", "y.safetensors")]
    strays.insert(0, store.folder / ".identity.json.7.tmp")
    for stray in strays:
        stray.write_bytes(b"half")
    assert [path for path in store.leftovers() if path in strays] == strays
    with ReferenceStore.at(store.folder).writing():
        assert not any(stray.exists() for stray in strays)
    assert len(store.tensors("hidden").files()) == 2


@pytest.fixture(params=FORMS)
def scored(world, request):
    """Completions with scores and one layer more."""
    world.prepare(world.random_pairs(20))
    world.layer, world.settings = request.param, {"shard_completions": 16, **FORMS[request.param]}
    score.score(world.run(score=world.settings))
    return world


def fresh(world) -> ReferenceStore:
    return ScoringJob.of(world.run()).store


# Another batch shape moves a hidden state by rounding, which may be the next code of 8 bits, or the next bfloat16.
ROUNDING = {"codes": {"rtol": 0.0, "atol": 1.0}, "scales": {"rtol": 1e-2, "atol": 0.0}}


def read_layer(world) -> dict[tuple[str, str], torch.Tensor]:
    """Each column of each completion."""
    rows, names = TensorRows(fresh(world).tensors(world.layer)), fresh(world).ids().to_list()
    columns = {
        "hidden": ["hidden"],
        "hidden-int8": ["codes", "scales"],
        "topk-tail-8": ["logps"],
        "pooled": ["hidden_sum"],
    }[world.layer]
    return {(name, column): rows.read([name], column) for name in names for column in columns}


def test_score_repairs_a_damaged_block(scored, capsys):
    before, block = read_layer(scored), fresh(scored).tensors(scored.layer).files()[0]
    lost = fresh(scored).tensors(scored.layer).sidecar(block)["rows"]
    flip(block)
    capsys.readouterr()
    assert maintenance.verify(scored.paths.store) == 1
    assert f"{block}: the contents do not have the SHA-256" in capsys.readouterr().out
    result = score_completions(ScoringJob.of(scored.run(score=scored.settings)))
    assert (result.scored, result.reused) == (lost, 40 - lost)
    assert f"damaged block {block.name}" in capsys.readouterr().err
    assert maintenance.verify(scored.paths.store) == 0
    for (name, column), values in read_layer(scored).items():
        apart = ROUNDING.get(column, {"rtol": 1e-3, "atol": 1e-3})
        torch.testing.assert_close(values, before[name, column], **apart)


def test_list_and_gc_see_every_layer(scored, capsys):
    store = fresh(scored)
    capsys.readouterr()
    listed = {layer["name"]: layer for layer in maintenance.list_stores(scored.paths.store)["layers"][0]}
    assert re.search(rf"^ +{scored.layer} +40 in \d+ files, ", capsys.readouterr().out, re.MULTILINE)
    files = store.tensors(scored.layer).files()
    assert listed[scored.layer]["completions"] == 40
    assert listed[scored.layer]["files"] == len(files)
    head = store.head(scored.layer)
    assert listed[scored.layer]["bytes"] == sum(path.stat().st_size for path in files) + head.bytes()
    before, bytes_ = read_layer(scored), sum(layer["bytes"] for layer in listed.values())
    pairs = scored.random_pairs(20)[3:9]
    paths = scored.prepare(pairs)
    assert maintenance.gc(scored.paths.store, keep=[paths.pairs("train")]) > 0
    after = read_layer(scored)
    assert len({name for name, _ in after}) == 12
    assert len(fresh(scored).tensors(scored.layer).index().ids) == 12
    assert all(torch.equal(values, before[name]) for name, values in after.items())
    assert sum(layer["bytes"] for layer in maintenance.list_stores(scored.paths.store)["layers"][0]) < bytes_


def test_gc_removes_leftovers_of_every_layer(scored):
    folder = fresh(scored).tensors(scored.layer).folder
    (folder / ".x.safetensors.7.tmp").write_bytes(b"x" * 100)
    (folder / "y.safetensors").write_bytes(b"x" * 50)
    assert maintenance.gc(scored.paths.store) == 150
    assert len(fresh(scored).tensors(scored.layer).index().ids) == 40


def test_verify_names_a_block_that_has_lost_its_sidecar(scored, capsys):
    block = fresh(scored).tensors(scored.layer).files()[0]
    block.with_suffix(".json").unlink()
    capsys.readouterr()
    assert maintenance.verify(scored.paths.store) == 0
    assert f"{block}: no sidecar" in capsys.readouterr().out


def expect_damage(world, file: Path, method: str, **settings) -> None:
    run = world.run(train={"method": method, "batch_pairs": 8, "max_steps": 2, **settings}, score=world.settings)
    with pytest.raises(InputError, match="file of the reference store is damaged") as raised:
        train.train(run)
    assert raised.value.where == str(file)


@pytest.mark.parametrize("scored", ["hidden", "hidden-int8", "topk-tail-8"], indirect=True)
@pytest.mark.parametrize("keep_date", [False, True])
def test_training_notices_a_flipped_bit(scored, keep_date):
    store, form = fresh(scored), "topk" if scored.layer == "topk-tail-8" else "hidden"
    for block in store.tensors(scored.layer).files():
        flip(block, keep_date=keep_date)
        expect_damage(scored, block, "tdpo1", full_vocab=form)
        flip(block, keep_date=keep_date)


@pytest.mark.parametrize("scored", ["hidden", "hidden-int8", "topk-tail-8"], indirect=True)
def test_a_damaged_head_is_noticed_and_restored(scored, capsys):
    """All blocks are sound: nothing is scored again, and the head is the model's own once more."""
    head = fresh(scored).head(scored.layer)
    before = load_file(head.path)["weight"].clone()
    flip(head.path)
    expect_damage(scored, head.path, "tdpo1", full_vocab="topk" if scored.layer == "topk-tail-8" else "hidden")
    assert maintenance.verify(scored.paths.store) == 1
    assert f"{head.path}: the contents" in capsys.readouterr().out
    result = score_completions(ScoringJob.of(scored.run(score=scored.settings)))
    assert (result.scored, result.reused) == (0, 40)
    assert "damaged head head.safetensors" in capsys.readouterr().err
    assert torch.equal(load_file(head.path)["weight"], before)
    assert (fresh(scored).folder / "damaged" / f"{scored.layer}-head.safetensors").exists()
    assert maintenance.verify(scored.paths.store) == 0


def test_a_head_is_restored_from_the_first_layers_with_its_scale(world, monkeypatch):
    """A Granite of four layers divides its logits by 4; two of them are loaded, not the model."""
    folder = world.folder / "granite"
    tiny_model("granite_logits_scaling").save_pretrained(folder)
    world.prepare(world.random_pairs(4), world.random_pairs(2, seed=1))
    run = world.run(reference={"model": str(folder)}, score={"full_vocab": "hidden"})
    score_completions(ScoringJob.of(run))
    head = ScoringJob.of(run).store.head("hidden")
    before, scale = load_file(head.path)["weight"].clone(), head.read(torch.device("cpu")).scale
    flip(head.path)
    loaded, honest = [], loading.from_files

    def noted(folder, config, dtype):
        loaded.append(config.num_hidden_layers)
        return honest(folder, config, dtype)

    monkeypatch.setattr(loading, "from_files", noted)
    assert score_completions(ScoringJob.of(run)).scored == 0
    assert loaded == [2]
    assert scale == head.read(torch.device("cpu")).scale == 0.25
    assert torch.equal(load_file(head.path)["weight"], before)


@pytest.mark.parametrize("scored", ["pooled"], indirect=True)
def test_the_pair_table_is_not_made_from_damaged_states(scored):
    from scoreonce.stages.score.reference_table import reference_views

    block = fresh(scored).tensors("pooled").files()[0]
    flip(block, keep_date=True)
    with pytest.raises(InputError, match="SHA-256") as raised:
        list(reference_views(ScoringJob.of(scored.run(score=scored.settings)), "train"))
    assert raised.value.where == str(block)
    assert "score.embeddings = true" in raised.value.fix


@pytest.mark.parametrize("scored", ["hidden"], indirect=True)
def test_a_store_of_version_01(scored, capsys):
    """No sidecar beside the head, less in those of the blocks: it is read, named, and given its digest by `score`."""
    store = fresh(scored)
    head = store.head("hidden")
    head.path.with_suffix(".json").unlink()
    shutil.rmtree(store.folder / "index")
    for block in store.tensors("hidden").files():
        path = block.with_suffix(".json")
        stated = json.loads(path.read_text())
        path.write_text(json.dumps({key: stated[key] for key in ("format", "bytes", "sha256", "rows", "tokens")}))
    run = scored.run(
        train={"method": "tdpo1", "batch_pairs": 8, "max_steps": 2, "learning_rate": 1e-9}, score=scored.settings
    )
    train.train(run)
    capsys.readouterr()
    assert maintenance.verify(scored.paths.store) == 0
    assert f"{head.path}: no sidecar" in capsys.readouterr().out
    assert score_completions(ScoringJob.of(scored.run(score=scored.settings))).scored == 0
    assert not head.lacks_digest()
    assert maintenance.verify(scored.paths.store) == 0
    assert "no sidecar" not in capsys.readouterr().out
    flip(head.path)
    assert maintenance.verify(scored.paths.store) == 1
