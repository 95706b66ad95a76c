"""Reading what the next step needs, in a thread, while this one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from torch import Tensor

Batch = tuple[str, ...]  # completion ids of a micro-batch
Read = Callable[[Batch], list[Tensor]]


class ReadAhead:
    """The tensors of micro-batches, of which those of one step ahead are read beforehand.

    What was announced and what was not are the same numbers; an error of reading is raised where the tensors are asked
    for, not before. In memory are the micro-batches of two steps: this one's and the next one's.
    """

    def __init__(self, read: Read) -> None:
        self._read, self._lock = read, Lock()  # one reader at a time: open files are shared
        self._thread = ThreadPoolExecutor(1, "read-ahead")
        self._now: dict[Batch, Future[list[Tensor]]] = {}
        self._next: dict[Batch, Future[list[Tensor]]] = {}

    def announce(self, batches: Iterable[Batch]) -> None:
        """Begin to read the micro-batches of the step after the next; those that were announced before are the next's.

        To be called once before each step, and once more before the first.
        """
        for future in self._now.values():
            future.cancel()
        self._now = self._next
        self._next = {batch: self._thread.submit(self._locked, batch) for batch in batches}

    def __call__(self, batch: Batch) -> list[Tensor]:
        """The tensors of a micro-batch. Raises what reading them raised."""
        future = self._now.get(batch)
        return self._locked(batch) if future is None else future.result()

    def close(self) -> None:
        """Forget what was announced and end the thread; it finishes the micro-batch that it is reading."""
        self._now, self._next = {}, {}
        self._thread.shutdown(cancel_futures=True)

    def _locked(self, batch: Batch) -> list[Tensor]:
        with self._lock:
            return self._read(batch)
