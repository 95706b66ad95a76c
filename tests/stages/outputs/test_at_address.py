"""Stages of a run whose `out` is an address, on several machines: each has a cache of its own, and nothing else."""

import json
import shutil

import pytest
import torch
from killed_training import dying_in_update
from launches import launch
from object_store import FaultyFileSystem
from safetensors.torch import load_file
from sample_tables import sample_rows, write_samples

from scoreonce.schemas.errors import InputError
from scoreonce.stages.audit import stage as audit
from scoreonce.stages.commands import sql
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.compare import stage as comparison
from scoreonce.stages.estimate import stage as estimate
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.exchange import export, import_scores
from scoreonce.stages.judge import stage as judge
from scoreonce.stages.outputs.unit_copy import SupersededError
from scoreonce.stages.pairs import stage as pairs
from scoreonce.stages.prepare import stage as prepare
from scoreonce.stages.push import stage as push
from scoreonce.stages.remote import retries
from scoreonce.stages.remote.folder import RemoteFolder
from scoreonce.stages.report import stage as report
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import merge
from scoreonce.stages.train import stage as train

LENGTH = "def score(prompt, completion):\n    return len(completion)\n"
FAST = {"learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 6, "checkpoint_every": 2}


class Machines:
    """Runs with out = s3://bucket/run, behind which is a folder."""

    def __init__(self, world, monkeypatch):
        self.world, self._patch = world, monkeypatch
        self.folder = world.folder / "bucket" / "run"
        self.system = FaultyFileSystem()

    def run(self, machine, label="dpo", **settings):
        """The run file on a machine, from now on."""
        self._patch.setenv("SCOREONCE_CACHE", str(self.world.folder / f"cache-{machine}"))
        run = self.world.run(train={**FAST, "label": label, **settings})
        return run.replace({"out": "s3://bucket/run"})

    def copy(self, machine, label="dpo"):
        return RunPaths.of(self.run(machine, label))

    def there(self, unit=""):
        return {path.relative_to(self.folder).as_posix() for path in (self.folder / unit).rglob("*") if path.is_file()}


@pytest.fixture
def machines(world, monkeypatch):
    """40 training pairs, in the copy of machine "one" as if `prepare` had run there."""
    world.prepare(world.random_pairs(40), world.random_pairs(8, seed=1))
    made = Machines(world, monkeypatch)
    root = str(world.folder / "bucket")
    monkeypatch.setattr(RemoteFolder, "open", lambda at: RemoteFolder(at, made.system, at.replace("s3://bucket", root)))
    monkeypatch.setattr(retries, "DEFAULT", retries.Retries(sleep=lambda seconds: None))
    shutil.copytree(world.folder / "out", made.copy("one").out)
    return made


@pytest.fixture
def scored(machines):
    score.score(machines.run("one"))
    return machines


def killed_in(step, run):
    """Train until the optimizer's step of that number, in which the process dies."""
    with dying_in_update(step):
        train.train(run)


def weights(machines, machine, label):
    return load_file(machines.copy(machine, label).policy / "model.safetensors")


def assert_equal(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_another_machine_has_the_pairs_and_the_scores(scored, capsys):
    assert {"pairs/manifest.json", "reference/manifest.json", ".scoreonce/index/pairs.json"} <= scored.there()
    assert any(name.startswith("store/") and name.endswith(".parquet") for name in scored.there())
    assert not any("lock" in name for name in scored.there())
    capsys.readouterr()
    again = score.score(scored.run("two"))
    said = capsys.readouterr().out
    assert f"out is s3://bucket/run; its local copy is {scored.copy('two').out}" in said
    assert (again.scored, again.reused) == (0, 96)
    assert again.pairs("train").height == 40


def test_another_machine_has_the_scores_of_further_models(machines):
    """For conditions, in SQL and in an estimate, which needs neither model."""
    other = {"plus": {"model": str(machines.world.model("plus", seed=1))}}
    score.score(machines.run("one").replace({"reference.other": other}))
    assert "reference/plus/manifest.json" in machines.there()
    run = machines.run("two", where="plus_margin > ref_margin").replace({"reference.other": other})
    query = "SELECT sum(CASE WHEN plus_margin > ref_margin AND split = 'train' THEN 1 ELSE 0 END) FROM pairs"
    kept = int(sql.answer(run, query).splitlines()[1])
    assert 0 < kept < 40
    assert estimate.estimate(run).pairs == kept


def test_a_killed_training_goes_on_at_another_machine(scored, capsys):
    """Killed in step 5, it goes on from the checkpoint of step 4 and ends with the weights of an uninterrupted run."""
    train.train(scored.run("one", "whole"))
    killed_in(5, scored.run("one", "killed"))
    assert "train/killed/checkpoints/step-000004/manifest.json" in scored.there()
    capsys.readouterr()
    done = train.train(scored.run("two", "killed"))
    assert "resuming after step 4 of 6" in capsys.readouterr().out
    assert_equal(weights(scored, "one", "whole"), weights(scored, "two", "killed"))
    columns = ["step", "loss", "rewards/margins"]
    whole = train.train(scored.run("one", "whole")).metrics.select(columns)
    assert done.metrics.select(columns).equals(whole)
    # Back on the first machine there is nothing to do, and its copy is that of the second.
    assert train.train(scored.run("one", "killed")).steps_done == 0
    assert_equal(weights(scored, "one", "killed"), weights(scored, "two", "killed"))
    checkpoints = {name.split("/")[3] for name in scored.there("train/killed/checkpoints")}
    assert checkpoints == {"step-000004", "step-000006"}


@pytest.mark.long
def test_reading_stages_fetch_what_they_read(scored, capsys):
    train.train(scored.run("one"))
    evaluate.evaluate(scored.run("two"))
    assert not (scored.copy("two").training / "checkpoints").exists()
    audit.audit(scored.run("three"))
    report.report(scored.run("three"))
    copy = scored.copy("three")
    assert "dpo" in copy.report.read_text(encoding="utf-8")
    assert [path.name for path in copy.policy.iterdir()] == ["scoreonce.json"]
    assert {"report.html", "audit/index.html", "evaluate/dpo/summary.json"} <= scored.there()
    assert "40" in sql.answer(scored.run("four"), "SELECT count(*) FROM pairs WHERE split = 'train'")
    assert "dpo" in sql.answer(scored.run("four"), "SELECT DISTINCT label FROM steps")
    found = estimate.estimate(scored.run("five"))
    assert found.pairs == 40
    assert "measured by the run dpo" in str(found.document())
    before = scored.there()
    score.estimate(scored.run("six"))
    train.estimate(scored.run("six", "other"))
    assert scored.there() == before


def test_an_export_is_published(scored):
    """Machine two has nothing but the address; what is up to date there is not made again."""
    folder = export.export_reference(scored.run("two"), "jsonl")
    assert scored.there("export") == {f"export/jsonl/{name}" for name in ("train.jsonl", "test.jsonl", "manifest.json")}
    before = (folder / "manifest.json").read_bytes()
    assert (export.export_reference(scored.run("three"), "jsonl") / "manifest.json").read_bytes() == before


def test_an_imported_reference_is_published(machines):
    """Scored in a folder, exported, and imported at machine one; machine two trains from it."""
    local = machines.world.run(train={**FAST, "label": "dpo"})
    score.score(local)
    import_scores.import_reference(machines.run("one"), [export.export_reference(local, "trl")], max_length=None)
    assert "reference/manifest.json" in machines.there("reference")
    assert train.train(machines.run("two")).steps_done == FAST["max_steps"]


@pytest.mark.slow
def test_a_comparison_goes_on_at_another_machine(scored, monkeypatch):
    """Of two candidates one was trained at machine one; the table and the page are those of machine two."""
    monkeypatch.setattr(prepare, "prepare", lambda run, **_: None)
    trained, honest = [], train.train

    def noting(run, **options):
        made = honest(run, **options)
        if made.steps_done:
            trained.append(run.train.label)
        return made

    monkeypatch.setattr(train, "train", noting)
    comparison.compare(scored.run("one").replace({"compare.methods": ["dpo"]}))
    made = comparison.compare(scored.run("two").replace({"compare.methods": ["dpo", "ipo"]}))
    assert trained == ["dpo-s0", "ipo-s0"]
    assert made.trials()["label"].to_list() == ["dpo-s0", "ipo-s0"]
    assert {"compare.json", "trials.parquet", "index.html"} <= {name.split("/")[-1] for name in scored.there("compare")}


@pytest.mark.long
def test_the_model_that_was_fetched_is_merged_and_published(scored):
    train.train(scored.run("one", "lora", lora_rank=2))
    merge.merge(scored.run("two", "lora", lora_rank=2))
    assert "train/lora/merged/model.safetensors" in scored.there()
    assert merge.merge(scored.run("three", "lora", lora_rank=2)).model.is_dir()


@pytest.mark.long
def test_a_policy_is_pushed_by_a_machine_that_has_only_the_address(scored):
    train.train(scored.run("one"))
    evaluate.evaluate(scored.run("one"))
    before = scored.there()
    made = push.push(scored.run("two"), "org/name", dry_run=True)
    assert {"model.safetensors", "README.md"} <= made.files.keys()
    assert b"## Held-out figures" in made.files["README.md"]
    there = {path.name for path in scored.copy("two").prepared.iterdir()}
    assert there == {"manifest.json"}  # neither pairs nor token ids
    assert not (scored.copy("two").training / "checkpoints").exists()
    assert scored.there() == before


def test_restart_replaces_what_is_at_the_address(scored):
    train.train(scored.run("one"))
    with pytest.raises(InputError, match="Another training run has its outputs"):
        train.train(scored.run("two", max_steps=2))
    before = scored.there("train")
    assert scored.there("train") == before
    train.train(scored.run("two", max_steps=2), restart=True)
    assert {name.split("/")[3] for name in scored.there("train/dpo/checkpoints")} == {"step-000002"}
    assert not scored.there("train") & {name for name in before if "steps/" in name and "00000003" in name}
    assert train.train(scored.run("three", max_steps=2)).steps_done == 0


@pytest.mark.long
def test_a_refused_restart_removes_nothing(scored):
    train.train(scored.run("one"))
    before = scored.there("train")
    with pytest.raises(InputError, match="No such tracker"):
        train.train(scored.run("two", log_with=["none-such"]), restart=True)
    assert scored.there("train") == before
    assert train.train(scored.run("two")).steps_done == 0


def test_two_machines_do_not_write_one_label_at_once(scored, monkeypatch):
    refusals, honest = [], train.Trainer.take

    def take(self, step, *rest):
        if step == 2:
            with pytest.raises(InputError) as raised:
                train.train(scored.run("two"), lock_timeout=0)
            refusals.append(raised.value)
            scored.run("one")
        return honest(self, step, *rest)

    monkeypatch.setattr(train.Trainer, "take", take)
    train.train(scored.run("one"))
    assert [each.what for each in refusals] == ["Train/dpo at s3://bucket/run is in use by another machine."]
    assert not scored.there(".scoreonce/leases")


def test_who_was_taken_for_dead_stops(scored, monkeypatch):
    honest = train.Trainer.take

    def take(self, step, *rest):
        if step == 3:
            (old,) = (scored.folder / ".scoreonce/leases/train/dpo").iterdir()
            old.rename(old.with_name("000002.json"))
        return honest(self, step, *rest)

    monkeypatch.setattr(train.Trainer, "take", take)
    with pytest.raises(SupersededError, match="taken over"):
        train.train(scored.run("one"))
    assert {name.split("/")[3] for name in scored.there("train/dpo/checkpoints")} == {"step-000002"}


@pytest.mark.long
def test_an_address_that_goes_away_for_a_while_costs_nothing(scored, capsys):
    train.train(scored.run("one", "whole"))
    scored.system.fault = lambda operation, path: "error" if operation == "put" and "step-000002" in path else None
    train.train(scored.run("one"))
    assert "not published yet: An address cannot be written." in capsys.readouterr().err
    assert train.train(scored.run("two")).steps_done == 0
    assert_equal(weights(scored, "one", "whole"), weights(scored, "two", "dpo"))


@pytest.mark.long
def test_what_could_not_be_published_is_by_the_next_command(scored, capsys):
    scored.system.fault = lambda operation, path: "error" if operation == "put" and "train/dpo/" in path else None
    with pytest.raises(InputError, match="An address cannot be written"):
        train.train(scored.run("one"))
    assert not [name for name in scored.there("train") if "lineage" in name]
    scored.system.fault = lambda operation, path: None
    report.report(scored.run("one"))
    assert "published train/dpo: " in capsys.readouterr().out
    assert train.train(scored.run("two")).steps_done == 0


@pytest.mark.long
def test_parts_on_two_machines_share_the_run(machines):
    done = [score.score(machines.run(name), part=f"{part}/2") for part, name in enumerate(("one", "two"), 1)]
    assert sum(result.scored for result in done) == 96
    assert "reference/manifest.json" in machines.there()
    assert score.score(machines.run("three")).pairs("train").equals(done[1].pairs("train"))


def test_a_model_in_parts_over_several_machines_is_refused(scored, monkeypatch):
    from scoreonce.stages.outputs.at_address import require_one_machine

    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError) as raised:
        require_one_machine(scored.copy("one"), "the parts of a model")
    assert raised.value.found == "4 processes, 2 of them on this machine"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    require_one_machine(scored.copy("one"), "the parts of a model")


@pytest.mark.long
def test_no_secret_is_written(scored, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")

    def refused(*_, **__):
        raise PermissionError("the key wJalrXUtnFEMI may not list")

    train.train(scored.run("one"))
    monkeypatch.setattr(scored.system, "find", refused)
    with pytest.raises(InputError) as raised:
        train.train(scored.run("two"))
    said = capsys.readouterr()
    assert "wJalrXUtnFEMI" not in f"{raised.value} {said.out} {said.err}"
    written = [path for path in scored.world.folder.rglob("*") if path.is_file()]
    assert all(b"wJalrXUtnFEMI" not in path.read_bytes() for path in written)


@pytest.mark.long
def test_processes_of_two_machines_train_from_their_own_copies(world, monkeypatch):
    """The first process fetches and publishes; that of the other machine fetches, and resumes from the same step."""
    world.prepare(world.random_pairs(40), world.random_pairs(8, seed=1))
    local = world.run(train={**FAST, "label": "dpo"})
    at_address = local.replace({"out": f"file://{world.folder}/bucket"})
    score.score(local)
    train.train(local)
    monkeypatch.setenv("SCOREONCE_CACHE", str(world.folder / "caches-0"))
    shutil.copytree(world.folder / "out", RunPaths.of(at_address).out)
    shutil.rmtree(RunPaths.of(at_address).training)
    score.score(at_address)
    monkeypatch.setenv("CACHES", str(world.folder / "caches"))
    launch("train", [at_address], 1, nodes=2, until=5)
    there = world.folder / "bucket/train/dpo"
    assert (there / "checkpoints/step-000004/manifest.json").is_file()
    before = (there / "metrics.jsonl").read_text().splitlines()
    shutil.rmtree(world.folder / "caches-0")
    shutil.rmtree(world.folder / "caches-1")
    launch("train", [at_address], 1, nodes=2)
    one, other = load_file(there / "model/model.safetensors"), weights_of(local)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=2e-5, atol=2e-5)
    lines = (there / "metrics.jsonl").read_text().splitlines()
    assert lines[:4] == before  # with the seconds that each step took: none of them was taken again
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def weights_of(run):
    return load_file(RunPaths.of(run).policy / "model.safetensors")


def test_samples_are_judged_on_one_machine_and_paired_on_another(machines):
    path = machines.world.folder / "length.py"
    path.write_text(LENGTH)

    def run(machine):
        return machines.run(machine).replace({"judge.function": f"{path}:score"})

    for label in ("dpo", "reference"):
        write_samples(machines.copy("one"), label, sample_rows({"a?": [label, "x"]}))
    judge.judge(run("one"), label="dpo", against="reference", allow_judge_function=True)
    assert machines.there("judge") == {
        f"judge/dpo-against-reference/{name}" for name in ("scores.parquet", "judgements.parquet", "manifest.json")
    }
    made = pairs.pairs(run("two"), ["dpo-against-reference"])
    assert made.path.is_relative_to(machines.world.folder / "cache-two")
    assert made.counts["listed"] == 3
    assert machines.there("graded") == {
        f"graded/dpo-against-reference/{name}" for name in ("pairs.jsonl", "manifest.json")
    }
