"""What an actor of the Ray engine does: it loads the model once and scores one part after the other."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scoreonce.schemas.errors import InputError
from scoreonce.stages.cluster.connection import cpu_share
from scoreonce.stages.cluster.node import Surroundings
from scoreonce.stages.config import Run
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.processes import ALONE, ProcessGroup
from scoreonce.stages.scoring.rows import Extent, load_scorer
from scoreonce.stages.scoring.run import score_part
from scoreonce.stages.store.parts import Part

if TYPE_CHECKING:
    from scoreonce.stages.scoring.model_scorer import ModelScorer

MOST_STARTS = 6  # of a part: Ray starts it again for as long as it ends its worker


@dataclass(frozen=True)
class Order:
    """What every actor is told. It crosses machines: plain values only."""

    run: Run
    parts: int  # into which the completions are divided
    extent: Extent  # of all parts, so that every actor probes the same layouts
    around: Surroundings
    store_key: str
    lock_timeout: float | None


class Starts:
    """How often each part was started: an actor of its own, which outlives those that score."""

    def __init__(self) -> None:
        self._of: Counter[int] = Counter()

    def another(self, part: int) -> int:
        """Count a start of this part, and return how many that makes."""
        self._of[part] += 1
        return self._of[part]


class Worker:
    """One process that scores parts, alone or as one of `processes` that hold the model together."""

    def __init__(self, order: Order, processes: ProcessGroup = ALONE) -> None:
        self._order, self._processes = order, processes

    def score(self, number: int) -> str:
        """Score a part as `score --part` does: under its lock, and only what the store lacks.

        So a part that is started again, because its process died, goes on after its last finished shard. Returns the
        four parts of an `InputError` as JSON, or an empty string: raised, Ray would make another error of it.
        """
        part = Part(number, self._order.parts)
        try:
            job = replace(self._job, part=part)
            score_part(job, lambda: self._scorer, processes=self._processes, lock_timeout=self._order.lock_timeout)
        except InputError as error:
            return problem(error)
        return ""

    @cached_property
    def _job(self) -> ScoringJob:
        """The job as it is on this node. Raises `InputError` where the node sees other files than the command."""
        order = self._order
        order.around.take()
        job = ScoringJob.of(order.run)
        if job.store.identity.key != order.store_key:
            raise InputError(
                "A node of the Ray cluster has another model under the same name.",
                found=f"its scores belong to the store {job.store.identity.key}, not to {order.store_key}",
                where=f"{order.run.reference.model} on {socket.gethostname()}",
                fix="Give every node the same files under the same path, or a Hub name with reference.revision.",
            )
        return job

    @cached_property
    def _scorer(self) -> ModelScorer:
        if self._order.run.compute.device == "cpu":
            import torch

            torch.set_num_threads(cpu_share())
        return load_scorer(self._job, self._order.extent)


class PartScorer:
    """Scores parts, the rows of Ray Data, with a whole model on one GPU or CPU."""

    def __init__(self, order: Order, starts: Any) -> None:
        self._order, self._starts, self._worker = order, starts, Worker(order)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Score the part of a row. Returns its number and, as JSON, the four parts of an error, or an empty string."""
        return answer(row, self._order, self._starts, self._worker.score)


def answer(row: Mapping[str, Any], order: Order, starts: Any, score: Callable[[int], str]) -> dict[str, Any]:
    """What `score` says of the part of a row, unless that part was started too often."""
    import ray

    number = int(row["part"])
    if ray.get(starts.another.remote(number)) <= MOST_STARTS:
        return {"part": number, "problem": score(number)}
    error = InputError(
        "A part of the completions ends every process that scores it.",
        found=f"part {number}/{order.parts} was started {MOST_STARTS} times, and its process died",
        where=f"at last on {socket.gethostname()}; the messages of Ray above say how",
        fix="Where memory ran out, set compute.tokens_per_microbatch lower or start Ray with fewer CPUs. "
        "`scoreonce score` without --engine ray shows what happens in one process.",
    )
    return {"part": number, "problem": problem(error)}


def needed(run: Run) -> tuple[int, int]:
    """GPUs and CPUs of the cluster that one process takes."""
    return (1, 0) if run.compute.device == "cuda" else (0, 1)


def problem(error: InputError) -> str:
    """The four parts of an error as JSON."""
    return json.dumps([error.what, error.found, error.where, error.fix])
