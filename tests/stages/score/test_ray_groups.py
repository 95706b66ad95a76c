"""Scoring with Ray by groups of processes that hold one model together."""

import json
import signal
import sys
from types import ModuleType, SimpleNamespace

import pytest
from local_ray import needs_ray
from scored_by_ray import drive, processes, require_the_same, run_of

from scoreonce.schemas.errors import InputError
from scoreonce.stages.score import ray_group
from scoreonce.stages.score.ray_engine import number_of_parts
from scoreonce.stages.score.ray_group import GroupLeader, in_any_order
from scoreonce.stages.score.ray_worker import Order, Starts, needed, problem
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.rows import Extent

WAITS, DIES = object(), object()  # what a call of a member may do in place of returning


class Remote:
    """A method of an actor."""

    def __init__(self, call):
        self.remote = call


class FakeMember:
    """An actor whose calls of `score` end as `ends` says, one after the other."""

    def __init__(self, *ends):
        ends = iter(ends)
        self.score = Remote(lambda number: next(ends))


class FakeRay(ModuleType):
    """As much of Ray as a leader asks for: calls that have ended, in the order in which they were made."""

    class RayError(Exception):
        pass

    def __init__(self):
        super().__init__("ray")
        self.killed = []
        self.exceptions = SimpleNamespace(RayError=self.RayError)

    def wait(self, calls, num_returns):
        ended = [call for call in calls if call is not WAITS]
        assert ended, "the leader waits for ever"
        return ended[:1], [call for call in calls if call is not ended[0]]

    def get(self, call):
        if call is DIES:
            raise self.RayError("the actor died")
        return call

    def kill(self, member):
        self.killed.append(member)


@pytest.fixture
def fake_ray(monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.exceptions", ray.exceptions)
    return ray


@pytest.fixture
def led(world, monkeypatch):
    """Makes a leader of these members."""
    monkeypatch.setattr(ray_group, "reserve", lambda order: None)
    order = Order(run_of(world, engine="ray", group_size=2), 8, Extent(1, 1, 1), None, "key", None)
    starts = Starts()

    def leader(*members):
        made = GroupLeader(order, SimpleNamespace(another=Remote(starts.another)))
        made.__dict__["_members"] = list(members)
        return made

    return leader


def test_a_part_is_done_when_all_members_have_done_their_share(fake_ray, led):
    leader = led(FakeMember("", ""), FakeMember("", ""))
    assert leader({"part": 1}) == {"part": 1, "problem": ""}
    assert leader({"part": 2}) == {"part": 2, "problem": ""}
    assert fake_ray.killed == []


def test_an_error_of_one_member_ends_the_group(fake_ray, led):
    """The others wait for it in the middle of a forward pass. The leader lives on: the next part has new members."""
    error = InputError("what", found="this", where="there", fix="that")
    first, second = FakeMember(WAITS), FakeMember(problem(error))
    leader = led(first, second)
    assert json.loads(leader({"part": 3})["problem"]) == ["what", "this", "there", "that"]
    assert fake_ray.killed == [first, second]
    assert "_members" not in vars(leader)


def test_a_member_that_dies_ends_the_others_and_the_leader(fake_ray, led, monkeypatch, caplog):
    ended = []
    monkeypatch.setattr(ray_group.os, "_exit", lambda code: ended.append(code) or sys.exit(code))
    first, second = FakeMember("", WAITS), FakeMember("", DIES)
    leader = led(first, second)
    leader({"part": 1})
    with pytest.raises(SystemExit):
        leader({"part": 2})
    assert ended == [1]
    assert fake_ray.killed == [first, second]
    assert "the actor died" in caplog.text


def test_results_come_as_they_are_ready(fake_ray):
    calls = in_any_order([WAITS, "second", "third"])
    assert [next(calls), next(calls)] == ["second", "third"]


def test_what_a_process_takes_of_the_cluster(world):
    """GPUs and CPUs: with a GPU no CPU, so that the group fits where only GPUs were reserved."""
    assert needed(world.run()) == (0, 1)
    assert needed(world.run(compute={"device": "cuda"})) == (1, 0)


def test_parts_are_of_two_shards_for_each_process():
    """240 completions in shards of eight, two processes: 240 / (2 * 2 * 8) = 7.5, so eight parts."""
    assert number_of_parts(240, 8 * 2) == 8


@pytest.mark.long
@needs_ray
@pytest.mark.parametrize("victim", ["0", "1", "leader"])
def test_a_process_of_a_group_that_is_killed(prepared, expected, victim):
    """The group dies as a whole and is started again, once, and nothing is stored twice.

    Three CPUs have room for one group of two, and the third CPU is not taken by half a group.
    """
    done = drive(prepared, victim, signal.SIGKILL, cpus=3, group_size=2)
    assert done.returncode == 0, done.stderr
    assert (prepared.folder / "killed").exists()
    require_the_same(prepared, expected)
    found = processes(prepared)
    assert {role: len(numbers) for role, numbers in found.items()} == {"0": 2, "1": 2, "leader": 2}
    store = ScoringJob.of(run_of(prepared)).store
    provenance = [store.sidecar(shard)["provenance"] for shard in store.shards()]
    assert all(each["sharded"] and each["processes"] == 2 for each in provenance)
    assert "scored     240 completions in" in done.stdout
