"""Scoring with Ray: what is refused, what an actor does, and a cluster whose worker or driver dies."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from local_ray import needs_ray
from scored_by_ray import drive, require_the_same, run_file, run_of, tables

from scoreonce.schemas.errors import InputError
from scoreonce.stages.cluster import connection
from scoreonce.stages.cluster.node import Surroundings
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.score import ray_engine, ray_worker
from scoreonce.stages.score import stage as score
from scoreonce.stages.score.ray_worker import MOST_STARTS, Order, PartScorer, Starts
from scoreonce.stages.scoring import rows
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.run import plan
from scoreonce.stages.store.parts import mark_of


class Call:
    """A method of an actor, called at once in this process."""

    def __init__(self, method):
        self.remote = method


def test_a_cluster_that_does_not_let_in(monkeypatch):
    def init(**_):
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(InputError, match="no Ray cluster answers") as raised, connection.connected():
        pass
    assert (raised.value.where, "RAY_AUTH_MODE=token" in raised.value.fix) == ("RAY_ADDRESS=10.0.0.1:6379", True)


@pytest.fixture
def ray_here(monkeypatch):
    """As much of Ray as an actor asks for, without a cluster."""
    node = SimpleNamespace(get_node_id=lambda: "a")
    nodes = [{"NodeID": "b", "Resources": {"CPU": 64}}, {"NodeID": "a", "Resources": {"CPU": 4}}]
    ray = SimpleNamespace(get=lambda value: value, get_runtime_context=lambda: node, nodes=lambda: nodes)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    threads = []
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    return threads


def actor(world, *, before=0, **changes):
    """An actor as the driver would start it; `changes` of what it is told."""
    run = run_of(world)
    job = ScoringJob.of(run)
    work = plan(job)
    told = Order(
        run,
        parts=15,
        extent=rows.Extent.of(job, work),
        around=Surroundings.here([job.paths.pairs_manifest, job.store.folder / "identity.json"]),
        store_key=job.store.identity.key,
        lock_timeout=None,
    )
    starts = Starts()
    starts._of.update(dict.fromkeys(range(1, 16), before))
    return PartScorer(Order(**{**vars(told), **changes}), SimpleNamespace(another=Call(starts.another))), work.parts(15)


@pytest.mark.parametrize(
    ("settings", "part", "message"),
    [
        ({"score": {"engine": "ray"}}, "1/2", "(?s)no parts to choose.*--part 1/2"),
        ({"score": {"engine": "ray"}, "compute": {"shard": "full"}}, None, "(?s)how many GPUs.*score.group_size = 1"),
        ({"score": {"engine": "ray"}, "compute": {"shard": "hybrid"}}, None, '(?s)replica of the others.*"hybrid"'),
        (
            {"score": {"engine": "ray", "group_size": 2}, "compute": {"shard": "none"}},
            None,
            '(?s)holds the model in parts.*"none", score.group_size = 2',
        ),
        ({"score": {"group_size": 2}}, None, '(?s)Only Ray puts processes into groups.*engine = "local"'),
        ({"score": {"engine": "ray", "store": "s3://bucket/scores"}}, None, "(?s)not by an address.*s3://bucket"),
    ],
)
def test_what_ray_cannot_do_is_refused_before_anything_is_read(world, monkeypatch, settings, part, message):
    monkeypatch.setattr(connection, "find_spec", lambda name: name)
    for command in (score.score, score.estimate):
        with pytest.raises(InputError, match=message):
            command(world.run(**settings), part=part)


def test_ray_in_a_launch_of_several_processes_is_refused(world, monkeypatch):
    monkeypatch.setattr(connection, "find_spec", lambda name: name)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"(?s)starts its processes itself.*launch of 2 processes"):
        score.score(world.run(score={"engine": "ray"}))


def test_without_the_package_the_extra_is_named(world, monkeypatch):
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"(?s)ray is not installed.*scoreonce\[ray\]"):
        score.score(world.run(score={"engine": "ray"}))


@pytest.mark.parametrize(
    ("completions", "shard", "parts"), [(1, 2048, 1), (4096, 2048, 1), (4097, 2048, 2), (10**8, 2048, 512)]
)
def test_parts_are_of_two_shards_and_not_too_many(completions, shard, parts):
    assert ray_engine.number_of_parts(completions, shard) == parts


def test_where_nothing_is_left_no_cluster_is_started(prepared, expected, monkeypatch, capsys):
    monkeypatch.setattr(connection, "find_spec", lambda name: name)
    monkeypatch.setattr(ray_engine, "connected", None)
    score.score(run_of(prepared))
    capsys.readouterr()
    result = score.score(run_of(prepared, engine="ray"))
    assert (result.scored, result.reused, result.missing) == (0, 240, 0)
    assert "scored     nothing: all 240 completions are in the store" in capsys.readouterr().out


def test_an_actor_scores_each_part_once_and_loads_one_model(prepared, expected, ray_here, monkeypatch):
    """Its threads are its share of the node: 64 cores for four CPUs are 16 each."""
    loaded = []
    load = ray_worker.load_scorer
    monkeypatch.setattr(ray_worker, "load_scorer", lambda *given: loaded.append(given) or load(*given))
    scorer, parts = actor(prepared)
    assert len(parts) == 15
    for part in [*parts, parts[0]]:  # the last is done: it was started again after its last shard
        assert scorer({"part": part.number}) == {"part": part.number, "problem": ""}
    assert len(loaded) == 1
    assert ray_here == [16]
    assert {mark_of(shard) for shard in ScoringJob.of(run_of(prepared)).store.shards()} == {part.mark for part in parts}
    score.score(run_of(prepared))
    require_the_same(prepared, expected)


def test_further_models_are_scored_with_ray_too(prepared, ray_here, monkeypatch):
    """In this process in the place of a cluster: the tables of each model are those of one process."""

    def score_parts(order, parts, room):
        scorer = PartScorer(order, SimpleNamespace(another=Call(Starts().another)))
        assert [scorer({"part": part.number})["problem"] for part in parts] == [""] * len(parts)

    monkeypatch.setattr(connection, "find_spec", lambda name: name)
    monkeypatch.setattr(ray_engine, "connected", nullcontext)
    monkeypatch.setattr(ray_engine, "counted", lambda name: 0)
    monkeypatch.setattr(ray_engine, "_score_parts", score_parts)
    other = {"plus": {"model": str(prepared.model("plus", seed=1))}}
    run = run_of(prepared).replace({"reference.other": other})
    plus = RunPaths.of(run).of_other("plus")
    score.score(run)
    expected = pl.read_parquet(plus.reference("train"))
    plus.reference_manifest.unlink()
    score.score(run.replace({"score.engine": "ray", "score.store": str(prepared.folder / "ray")}))
    found = pl.read_parquet(plus.reference("train"))
    assert found["pair_id"].equals(expected["pair_id"])
    assert (found["ref_margin"] - expected["ref_margin"]).abs().max() <= 2e-5
    assert (found["ref_margin"] - tables(prepared)["train"]["ref_margin"]).abs().max() > 0.01


def test_a_part_that_ends_its_process_again_and_again_is_given_up(prepared, ray_here):
    scorer, parts = actor(prepared, before=MOST_STARTS - 1)
    first = {"part": parts[0].number}
    assert scorer(first)["problem"] == ""
    what, found, _, fix = json.loads(scorer(first)["problem"])
    assert what == "A part of the completions ends every process that scores it."
    assert found == f"part {parts[0]} was started 6 times, and its process died"
    assert "tokens_per_microbatch" in fix


def test_a_node_with_other_files_scores_nothing(prepared, ray_here):
    here, manifest = str(Path.cwd()), str(prepared.paths.pairs_manifest)
    for changes, found in (
        ({"around": Surroundings("/no/such/folder", {}, False)}, "No such file"),
        ({"around": Surroundings(here, {manifest: "0" * 64}, False)}, "other contents"),
        ({"around": Surroundings(here, {"/no/such/file": "0" * 64}, False)}, "no such file"),
        ({"store_key": "another"}, "not to another"),
    ):
        scorer, parts = actor(prepared, **changes)
        problem = json.loads(scorer({"part": parts[0].number})["problem"])
        assert problem[0].startswith("A node of the Ray cluster")
        assert found in problem[1]
    assert ScoringJob.of(run_of(prepared)).store.shards() == []


@pytest.mark.long
@needs_ray
def test_a_worker_that_is_killed(prepared, expected):
    """Between a shard and its sidecar. Ray starts the worker and its part again, and nothing is scored twice."""
    done = drive(prepared, "worker", signal.SIGKILL)
    assert done.returncode == 0, done.stderr
    assert (prepared.folder / "killed").exists()
    require_the_same(prepared, expected)
    store = ScoringJob.of(run_of(prepared)).store
    assert len({mark_of(shard) for shard in store.shards()}) == 15
    assert "scored     240 completions in" in done.stdout
    assert "20 pairs; the reference prefers the chosen side in" in done.stdout


@pytest.mark.long
@needs_ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_a_driver_that_ends_leaves_what_is_finished(prepared, expected, number):
    """The next `score` goes on from there, here without Ray. It waits for a worker that has not noticed yet."""
    done = drive(prepared, "driver", number)
    assert done.returncode == {signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[number], done.stderr
    assert not prepared.paths.reference_manifest.exists()
    result = score.score(run_of(prepared))
    assert 0 < result.scored < 240
    require_the_same(prepared, expected)


@contextmanager
def started_cluster(environment):
    """The address of a cluster of its own: `ray stop` would end every other one on this machine too."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--port=0", "--num-cpus=2"]
    command += [f"--object-store-memory={80 * 2**20}", "--include-dashboard=false"]
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        head = subprocess.Popen(
            [*command, f"--temp-dir={folder}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        try:
            shown = []
            for line in head.stdout:
                shown.append(line)
                if "block forever" in line:
                    break
            current = Path(folder, "ray_current_cluster")
            assert current.is_file(), "".join(shown)
            yield current.read_text(encoding="utf-8").strip()
        finally:
            head.terminate()
            head.communicate(timeout=60)


@pytest.mark.long
@needs_ray
def test_the_command_on_a_cluster_that_is_there(prepared, expected):
    """Started as `ray start` starts it. The model has a relative path, as in most run files."""
    # Whether `ray start` asks for a token depends on what this user did before.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    with started_cluster(environment) as address:
        done = subprocess.run(
            [sys.executable, "-m", "scoreonce.stages.cli", "score", str(run_file(prepared)), "--engine", "ray"],
            cwd=prepared.folder,
            capture_output=True,
            text=True,
            check=False,
            env={**environment, "RAY_ADDRESS": address},
        )
    assert done.returncode == 0, done.stderr
    require_the_same(prepared, expected)
