"""Batches of raw rows become tables of pairs: in this process, or in several whose results come back in order.

Rows are independent of each other, so the number of processes and machines changes nothing. Each process finds out from
the same first rows how to read the data; only rows and tables travel between them.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from scoreonce.pipeline.text.rows_to_pairs import PreparationSettings, QuarantinedRow, prepare_rows
from scoreonce.schemas.errors import InputError
from scoreonce.stages.cluster.connection import connected, counted, cpu_share
from scoreonce.stages.cluster.executor import ray_executor
from scoreonce.stages.cluster.node import Surroundings
from scoreonce.stages.cluster.ordered import in_order
from scoreonce.stages.config import Run
from scoreonce.stages.data.dataset import Dataset, dataset_of, tokenizer_of
from scoreonce.stages.data.encoding import encoding_of, template_inputs
from scoreonce.stages.models import folders
from scoreonce.stages.prepare.pair_files import pair_table, token_table
from scoreonce.stages.raw.raw_data import RawData
from scoreonce.stages.raw.raw_files import RawRow

AHEAD = 2  # batches for each process that are read and not yet written
ENGINE = 'data.engine = "ray", or --engine ray of prepare'


class PreparedBatch(NamedTuple):
    """What a batch of raw rows became."""

    rows: int
    pairs: pa.Table  # rows of `Pair`
    tokens: pa.Table  # rows of `PairTokens`, in the same order
    refused: list[QuarantinedRow]


class FirstRows(NamedTuple):
    """What tells how a dataset is to be read."""

    name: str
    rows: list[RawRow]
    untyped: bool


Batches = Iterator[list[RawRow]]
Prepare = Callable[[Batches, Dataset], Iterator[PreparedBatch]]


class Pool(Protocol):
    """What is used of an executor."""

    def submit(self, function: Callable[..., PreparedBatch], /, *given: Any) -> Future[PreparedBatch]:
        """Have another process call the function."""


@contextmanager
def preparing(run: Run, datasets: Sequence[Dataset]) -> Iterator[Prepare]:
    """How the batches of each of `datasets` become pairs, in their order.

    In other processes with `data.processes` over 1, or by a Ray cluster; this one reads and writes. Raises `InputError`
    where one of them is killed, for good.
    """
    if run.data.engine == "local" and run.data.processes == 1:
        yield lambda batches, dataset: _here(batches, dataset.recipe)
        return
    first = [FirstRows(each.raw.name, next(each.raw.batches(None), []), each.raw.untyped) for each in datasets]
    with _on_cluster(run, datasets, first) if run.data.engine == "ray" else _on_this_machine(run, first) as there:
        pool, count = there
        yield lambda batches, dataset: _elsewhere(pool, batches, datasets.index(dataset), AHEAD * count)


@contextmanager
def _on_this_machine(run: Run, first: Sequence[FirstRows]) -> Iterator[tuple[Pool, int]]:
    """A pool of processes, and how many."""
    count = run.data.processes
    # Not forked: a copy of a process with threads (tokenizers, polars) may wait for ever for a thread that it lacks.
    pool = ProcessPoolExecutor(
        count, get_context("spawn"), initializer=_begin, initargs=(run, first, folders.trust_remote_code)
    )
    try:
        yield pool, count
    except BrokenProcessPool:
        raise InputError(
            "A process that makes pairs has ended in the middle of its work.",
            found="it was killed, perhaps because memory ran out, or could not start; its own message is above, if any",
            where=f"data.processes = {count}",
            fix="Set data.processes to a smaller number. In a script, call scoreonce.prepare under "
            '`if __name__ == "__main__":`: each process imports the script.',
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _on_cluster(run: Run, datasets: Sequence[Dataset], first: Sequence[FirstRows]) -> Iterator[tuple[Pool, int]]:
    """The tasks of a Ray cluster, and how many run at the same time."""
    around = Surroundings.here(Path(name) for name in template_inputs(run.data))
    given = (run, first, around, datasets[0].recipe.encoder.digest)
    with connected(), ray_executor(_begin_task, given, where=ENGINE) as pool:
        yield pool, max(1, counted("CPU"))


def prepared(rows: Sequence[RawRow], first_row: int, recipe: PreparationSettings) -> PreparedBatch:
    """The pairs of a batch of raw rows, of which the first is row `first_row` of the dataset."""
    pairs, refused = prepare_rows(rows, first_row, recipe)
    return PreparedBatch(len(rows), pair_table(pairs), token_table(pairs), refused)


def _here(batches: Batches, recipe: PreparationSettings) -> Iterator[PreparedBatch]:
    for rows, first_row in _placed(batches):
        yield prepared(rows, first_row, recipe)


def _elsewhere(pool: Pool, batches: Batches, dataset: int, most: int) -> Iterator[PreparedBatch]:
    return in_order(lambda batch: pool.submit(_prepared, dataset, *batch), _placed(batches), most)


def _placed(batches: Batches) -> Iterator[tuple[list[RawRow], int]]:
    """Each batch with the number of its first row."""
    first_row = 0
    for rows in batches:
        yield rows, first_row
        first_row += len(rows)


# ---- in the other processes ----

_recipes: list[PreparationSettings] = []


def _begin(run: Run, first: Sequence[FirstRows], trust_remote_code: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the one that writes ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folders.trust_remote_code = trust_remote_code
    threads = run.data.workers or os.cpu_count() or 1
    _learn(run.replace({"data.workers": max(1, threads // run.data.processes)}), first)


def _begin_task(run: Run, first: Sequence[FirstRows], around: Surroundings, encoder: str) -> None:
    around.take()
    _learn(run.replace({"data.workers": cpu_share()}), first)
    if _recipes[0].encoder.digest != encoder:
        raise InputError(
            "A node of the Ray cluster has another tokenizer under the same name.",
            found=f"its digest is {_recipes[0].encoder.digest}, not {encoder}",
            where=f"{run.data.tokenizer or run.reference.model} on {socket.gethostname()}",
            fix="Give every node the same files under the same path, or a Hub name with reference.revision.",
        )


def _learn(run: Run, first: Sequence[FirstRows]) -> None:
    """Find out how to read each dataset, from its first rows."""
    encoding = encoding_of(tokenizer_of(run), run)
    _recipes.clear()  # a process of Ray may have served another command
    for name, rows, untyped in first:
        raw = RawData(name, {}, 0, lambda _, rows=rows: iter([rows]), untyped)  # type: ignore[misc]
        _recipes.append(dataset_of(raw, run.data, encoding).recipe)


def _end_with_parent() -> None:
    """End this process when the one that started it was killed: nobody else would."""
    if (parent := parent_process()) is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _prepared(dataset: int, rows: Sequence[RawRow], first_row: int) -> PreparedBatch:
    return prepared(rows, first_row, _recipes[dataset])
