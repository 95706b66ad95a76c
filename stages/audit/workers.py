"""Who reads the pieces: threads of this process, or the CPUs of a Ray cluster. Results come in the order of the pieces.

A piece is read by itself, so who reads it changes nothing. What relates pairs to each other, and what is written, stays
with the command.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from scoreonce.stages.cluster.connection import connected, counted
from scoreonce.stages.cluster.executor import ray_executor
from scoreonce.stages.cluster.node import Surroundings
from scoreonce.stages.cluster.ordered import in_order
from scoreonce.stages.common.paths import RunPaths

AHEAD = 2  # items for each worker that are begun and not yet taken
ENGINE = 'audit.engine = "ray", or --engine ray of audit'
Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Protocol):
    """What calls a function for each item."""

    def __call__(self, function: Callable[[Any, Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        """The results of `function(shared, item)`, in order."""


@contextmanager
def workers_of(engine: Literal["local", "ray"], paths: RunPaths, shared: Any) -> Iterator[Workers]:
    """As many workers as there are cores, or CPUs of the cluster; `shared` reaches each once.

    Raises the `InputError` of a function, and one where a node does not see the files of this run.
    """
    if engine == "local":
        count = os.cpu_count() or 1
        with ThreadPoolExecutor(count) as threads:
            yield lambda function, items: in_order(partial(threads.submit, function, shared), items, AHEAD * count)
        return
    around = Surroundings.here([paths.pairs_manifest])
    with connected(), ray_executor(_begin, (around, shared), where=ENGINE) as tasks:
        most = AHEAD * max(1, counted("CPU"))
        yield lambda function, items: in_order(partial(tasks.submit, _in_task, function), items, most)


# ---- in the processes of Ray ----

_shared: list[Any] = []


def _begin(around: Surroundings, shared: Any) -> None:
    around.take()
    _shared[:] = [shared]  # a process of Ray may have served another command


def _in_task(function: Callable[[Any, Item], Result], item: Item) -> Result:
    return function(_shared[0], item)
