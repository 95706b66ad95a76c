"""An executor whose functions run as tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

from scoreonce.schemas.errors import InputError

Result = TypeVar("Result")

RETRIES = 5  # of a task whose process or node died

_begun: list[str] = []  # in a process of Ray: the executor whose initializer it called last


class RayExecutor:
    """What `concurrent.futures.Executor.submit` is, for a cluster: a task takes one of its CPUs.

    `initializer(*initargs)` is called in each process of Ray before its first task. Functions are pure: a task whose
    process died is given to another.
    """

    def __init__(self, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> None:
        import ray

        self._task = ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
        self._name = uuid4().hex
        # In a list a reference stays one, so that a process fetches the arguments once and not for each task.
        self._begin = (initializer, [ray.put(initargs)])

    def submit(self, function: Callable[..., Result], /, *given: Any) -> Future[Result]:
        """Have a task call the function."""
        future: Future[Result] = self._task.remote(self._name, *self._begin, function, *given).future()
        return future


@contextmanager
def ray_executor(initializer: Callable[..., None], initargs: tuple[Any, ...], *, where: str) -> Iterator[RayExecutor]:
    """An executor on the cluster of this process's connection.

    Raises the `InputError` of a task, and one of its own where a task ends process after process; `where` says what
    asked for it.
    """
    import ray.exceptions

    try:
        yield RayExecutor(initializer, initargs)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise InputError(
            "A task of the Ray cluster has ended every process that ran it.",
            found=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}, after {RETRIES + 1} starts",
            where=where,
            fix="Where memory ran out, start Ray with fewer CPUs on a node. Without Ray the same command shows what "
            "happens in one process.",
        ) from None


def _run(
    name: str, initializer: Callable[..., None], initargs: list[Any], function: Callable[..., Any], *given: Any
) -> Any:
    if _begun != [name]:
        import ray

        initializer(*ray.get(initargs[0]))
        _begun[:] = [name]
    return function(*given)
