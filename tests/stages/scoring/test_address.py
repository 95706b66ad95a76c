"""Scoring into a store at an address, from several machines: each has a cache of its own."""

import itertools
import json
import shutil

import pytest
from object_store import FaultyFileSystem

from scoreonce.schemas.errors import InputError
from scoreonce.stages.commands import stores
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.remote import retries
from scoreonce.stages.remote.folder import RemoteFolder
from scoreonce.stages.score import stage as score
from scoreonce.stages.scoring import model_scorer
from scoreonce.stages.scoring.job import ScoringJob


class Machines:
    """Runs of one prepared dataset whose store is at s3://bucket/scores, behind which is a folder."""

    def __init__(self, world, monkeypatch):
        self.world, self._patch = world, monkeypatch
        self.folder = world.folder / "bucket" / "scores"
        self.system = FaultyFileSystem()

    def run(self, machine, **settings):
        """The run file on a machine, which has its own cache and its own `out`, from now on."""
        self._patch.setenv("SCOREONCE_CACHE", str(self.world.folder / f"cache-{machine}"))
        out = self.world.folder / f"out-{machine}"
        if not out.exists():
            shutil.copytree(self.world.folder / "out", out)
        run = self.world.run(score={"store": "s3://bucket/scores", **settings})
        return run.replace({"out": str(out)})

    def rows(self, layer="shards"):
        """Rows in all files at the address, by their sidecars."""
        return sum(json.loads(path.read_text())["rows"] for path in self.folder.glob(f"*/{layer}/[0-9]*.json"))


@pytest.fixture
def machines(world, monkeypatch):
    """60 completions of 23 prompts, 16 to a shard."""
    pairs = world.random_pairs(30)
    world.prepare(pairs[:24], pairs[24:])
    made = Machines(world, monkeypatch)
    root = str(world.folder / "bucket")
    monkeypatch.setattr(RemoteFolder, "open", lambda at: RemoteFolder(at, made.system, at.replace("s3://bucket", root)))
    monkeypatch.setattr(retries, "DEFAULT", retries.Retries(sleep=lambda seconds: None))
    return made


def tables(result):
    return {split: result.pairs(split) for split in ("train", "test")}


def test_one_machine_scores_and_another_has_the_same_tables(machines, monkeypatch, capsys):
    local = score.score(machines.world.run())
    capsys.readouterr()
    result = score.score(machines.run("one"))
    assert (result.scored, result.reused) == (60, 0)
    assert machines.rows() == 60
    said = capsys.readouterr().out
    assert "shards: s3://bucket/scores/" in said
    monkeypatch.setattr(model_scorer.ModelScorer, "load", None)
    again = score.score(machines.run("two"))
    assert (again.scored, again.reused) == (0, 60)
    for split, table in tables(local).items():
        assert again.pairs(split).equals(result.pairs(split))
        assert table["pair_id"].equals(again.pairs(split)["pair_id"])
        assert ((table["ref_margin"] - again.pairs(split)["ref_margin"]).abs() < 1e-4).all()
    assert score.estimate(machines.run("three")).completions == 0


def test_parts_on_three_machines_score_each_completion_once(machines):
    done = [score.score(machines.run(name), part=f"{part}/3") for part, name in enumerate(("one", "two", "three"), 1)]
    assert sum(result.scored for result in done) == 60 == machines.rows()
    assert [result.missing for result in done] == [60 - done[0].scored, done[2].scored, 0]
    assert done[2].pairs("train").height == 24
    at_the_end = score.score(machines.run("one"))
    assert (at_the_end.scored, at_the_end.missing) == (0, 0)
    assert tables(at_the_end)["train"].equals(tables(done[2])["train"])


def test_what_passes_changes_nothing(machines):
    numbers = itertools.count()

    def fault(operation, path):
        number = next(numbers)
        return None if number % 3 else ("error", "half", "half then error")[number // 3 % 3]

    machines.system.fault = fault
    assert (
        score.score(machines.run("one"), part="1/2").scored + score.score(machines.run("two"), part="2/2").scored == 60
    )
    assert machines.rows() == 60
    machines.system.fault = lambda operation, path: None
    assert stores.verify(machines.run("three")) == 0


def test_a_store_that_goes_away_loses_nothing(machines, capsys):
    """The second shard cannot be published. It was scored and is kept; the next command scores only the rest."""
    machines.system.fault = lambda operation, path: (
        "half" if operation == "put" and machines.rows() >= 16 and path.endswith(".parquet") else None
    )
    with pytest.raises(InputError) as raised:
        score.score(machines.run("one"))
    assert raised.value.what == "The reference store cannot be written at its address."
    assert "the last of 6 tries" in raised.value.found
    published = machines.rows()
    kept = sum(ScoringJob.of(machines.run("one")).store.sidecar(path)["rows"] for path in copies(machines, "one"))
    assert published < kept < 60
    with pytest.raises(InputError, match="cannot be written at its address"):
        score.score(machines.run("one"))  # still away; nothing is scored meanwhile
    machines.system.fault = lambda operation, path: None
    result = score.score(machines.run("one"))
    assert (result.scored, result.reused) == (60 - kept, kept)
    assert machines.rows() == 60
    assert "files that were only in" in capsys.readouterr().out
    assert score.score(machines.run("two")).scored == 0


def copies(machines, name):
    return [
        path.with_suffix(".parquet") for path in machines.world.folder.glob(f"cache-{name}/stores/*/*/shards/*.json")
    ]


def test_a_store_that_cannot_be_reached_at_the_start(machines):
    machines.system.fault = lambda operation, path: "error" if operation in ("find", "info") else None
    with pytest.raises(InputError) as raised:
        score.score(machines.run("one"))
    assert raised.value.what == "An address cannot be listed."
    assert raised.value.where.startswith("s3://bucket/scores/")
    assert "run the same command again" in raised.value.fix


def test_a_damaged_object_is_scored_again_by_who_lacks_it(machines, capsys):
    score.score(machines.run("one"))
    (bad, *_) = sorted(machines.folder.glob("*/shards/*.parquet"))
    bad.write_bytes(bad.read_bytes()[:-1])
    assert stores.verify(machines.run("one")) == 1
    assert f"shards/{bad.name}: " in capsys.readouterr().out
    result = score.score(machines.run("two"))
    assert 0 < result.scored < 60
    assert result.scored + result.reused == 60
    assert "not used: s3://bucket/scores/" in capsys.readouterr().err
    assert score.score(machines.run("three")).scored == 0
    assert score.score(machines.run("one")).scored == 0  # its copy is sound


def test_a_damaged_copy_is_fetched_and_not_scored(machines, capsys):
    score.score(machines.run("one"))
    (bad, *_) = sorted(copies(machines, "one"))
    bad.write_bytes(bad.read_bytes()[:-1])
    assert score.score(machines.run("one")).scored == 0
    assert "to be fetched or scored again" in capsys.readouterr().err
    assert machines.rows() == 60


def test_hidden_states_reach_other_machines(machines, monkeypatch):
    settings = {"full_vocab": "hidden", "embeddings": True}
    score.score(machines.run("one", **settings))
    assert machines.rows("hidden") == machines.rows("pooled") == 60
    monkeypatch.setattr(model_scorer.ModelScorer, "load", None)
    result = score.score(machines.run("two", **settings))
    assert result.scored == 0
    assert result.pairs("train")["ref_ches"].null_count() == 0
    store = ScoringJob.of(machines.run("two", **settings)).store
    assert store.head("hidden").damage() == []
    assert store.head("hidden").exists()


def test_the_policy_is_evaluated_into_the_same_store(machines):
    score.score(machines.run("one"))
    other = str(machines.world.model("other", seed=1))
    found = evaluate.evaluate(machines.run("one"), model=other)
    assert found.pairs().height == 6
    assert len(list(machines.folder.iterdir())) == 2
    score.score(machines.run("two"))
    again = evaluate.evaluate(machines.run("two"), model=other)
    assert again.pairs().equals(found.pairs())


def test_one_launch_over_two_machines_is_refused(machines, monkeypatch):
    from scoreonce.stages.scoring import run as scoring

    monkeypatch.setattr(scoring, "launched", lambda compute: scoring.ProcessGroup(0, 4, lambda: None))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError) as raised:
        score.score(machines.run("one"))
    assert raised.value.found == "4 processes, of which 2 on this machine"
    assert "--part 1/2" in raised.value.fix


def test_store_commands_at_an_address(machines, capsys):
    with pytest.raises(InputError, match="There is no reference store yet"):
        stores.list_stores(machines.run("one"))
    score.score(machines.run("one"))
    (folder,) = machines.folder.iterdir()
    capsys.readouterr()
    stores.list_stores(machines.run("two"))
    said = capsys.readouterr().out
    assert said.startswith(f"{folder.name}  {machines.world.model()} (float32): 60 completions, ")
    assert f"shards  60 in {len(copies(machines, 'one'))} files" in said
    assert stores.verify(machines.run("two")) == 0
    assert "all sound" in capsys.readouterr().out
    for refused in (lambda run: stores.compact(run), lambda run: stores.gc(run, prune=True, drop=[])):
        with pytest.raises(InputError) as raised:
            refused(machines.run("two"))
        assert raised.value.where == "s3://bucket/scores"
        assert "copy the store to a folder" in raised.value.fix
    with pytest.raises(InputError, match="There is no such reference store"):
        stores.gc(machines.run("two"), prune=False, drop=["0" * 32])


def test_gc_at_an_address_spares_what_may_be_being_written(machines, capsys):
    score.score(machines.run("one"))
    (folder,) = machines.folder.iterdir()
    stray = folder / "shards" / "20260101T000000000000-0123456789.parquet"
    stray.write_bytes(b"half")
    before = sorted(path.name for path in (folder / "shards").iterdir())
    written = stray.stat().st_mtime
    stores.gc(machines.run("one"), prune=False, drop=[], now=lambda: written + 3600)
    assert sorted(path.name for path in (folder / "shards").iterdir()) == before
    stores.gc(machines.run("one"), prune=False, drop=[], now=lambda: written + 25 * 3600)
    assert sorted(path.name for path in (folder / "shards").iterdir()) == [
        name for name in before if name != stray.name
    ]
    assert "freed 4 B" in capsys.readouterr().out
    stores.gc(machines.run("one"), prune=False, drop=[folder.name])
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert copies(machines, "one") == []
    assert score.score(machines.run("one")).scored == 60


def test_no_file_of_a_run_holds_credentials(machines, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    score.score(machines.run("one"))

    def refused(*_, **__):
        raise PermissionError("the key wJalrXUtnFEMI may not list")

    monkeypatch.setattr(machines.system, "find", refused)
    with pytest.raises(InputError) as raised:
        score.score(machines.run("one"))
    said = capsys.readouterr()
    assert "wJalrXUtnFEMI" not in f"{raised.value} {said.out} {said.err}"
    assert "the key *** may not list" in raised.value.found
    written = [path for path in machines.world.folder.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert all(b"wJalrXUtnFEMI" not in path.read_bytes() for path in written)
