"""Functions as tasks of a Ray cluster."""

import os
import sys
from types import SimpleNamespace

import pytest
from local_ray import cluster, needs_ray

from scoreonce.schemas.errors import InputError
from scoreonce.stages.cluster import executor
from scoreonce.stages.cluster.executor import ray_executor


def test_a_process_is_initialized_once_for_each_executor_that_it_serves(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda reference: reference))
    monkeypatch.setattr(executor, "_begun", [])
    learnt = []
    found = [
        executor._run(name, learnt.append, [(name,)], lambda a, b: a + b, 1, number)
        for number, name in enumerate(["one", "one", "two", "two", "one"])
    ]
    assert found == [1, 2, 3, 4, 5]
    assert learnt == ["one", "two", "one"]


@pytest.mark.long
@needs_ray
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # Ray's own
def test_tasks_that_fail(monkeypatch):
    """An `InputError` is raised as it was; a task that ends every process is named; a bug stays what it is."""
    monkeypatch.setattr(executor, "RETRIES", 1)

    def refuse():
        raise InputError("what", found="this", where="there", fix="that")

    def outcome(function):
        with ray_executor(lambda: None, (), where="the setting") as pool:
            return pool.submit(function).result()

    with cluster(1):
        assert outcome(lambda: 3) == 3
        with pytest.raises(InputError) as raised:
            outcome(refuse)
        assert (raised.value.what, raised.value.found, raised.value.where) == ("what", "this", "there")
        with pytest.raises(InputError, match=r"(?s)ended every process that ran it.*after 2 starts.*the setting"):
            outcome(lambda: os._exit(1))
        with pytest.raises(ZeroDivisionError):
            outcome(lambda: 1 // 0)
