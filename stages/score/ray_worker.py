"""What an actor of the Ray engine does: it loads the model once and scores one part after the other."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import sha256
from scoreonce.stages.config import Run
from scoreonce.stages.scoring.job import ScoringJob
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
    folder: str  # in which the command was given; paths of a run file are relative to it
    store_key: str
    files: dict[str, str]  # path and SHA-256 of what every node has to see alike
    trust_remote_code: bool
    lock_timeout: float | None


class Starts:
    """How often each part was started: an actor of its own, which outlives those that score."""

    def __init__(self) -> None:
        self._of: Counter[int] = Counter()

    def another(self, part: int) -> int:
        """Count a start of this part, and return how many that makes."""
        self._of[part] += 1
        return self._of[part]


class PartScorer:
    """Scores parts, the rows of Ray Data, with one model.

    A part is scored as `score --part` scores it: under its lock, and only what the store lacks. So a part that Ray
    starts again, because its actor died, goes on after its last finished shard. An `InputError` is returned in the row
    and not raised, because Ray would make another error of it.
    """

    def __init__(self, order: Order, starts: Any) -> None:
        self._order, self._starts = order, starts

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Score the part of a row. Returns its number and, as JSON, the four parts of an error, or an empty string."""
        number = int(row["part"])
        try:
            self._require_few_starts(number)
            part = Part(number, self._order.parts)
            score_part(replace(self._job, part=part), lambda: self._scorer, lock_timeout=self._order.lock_timeout)
        except InputError as error:
            return {"part": number, "problem": json.dumps([error.what, error.found, error.where, error.fix])}
        return {"part": number, "problem": ""}

    def _require_few_starts(self, number: int) -> None:
        import ray

        if ray.get(self._starts.another.remote(number)) > MOST_STARTS:
            raise InputError(
                "A part of the completions ends every process that scores it.",
                found=f"part {number}/{self._order.parts} was started {MOST_STARTS} times, and its process died",
                where=f"at last on {socket.gethostname()}; the messages of Ray above say how",
                fix="Where memory ran out, set compute.tokens_per_microbatch lower or start Ray with fewer CPUs. "
                "`scoreonce score` without --engine ray shows what happens in one process.",
            )

    @cached_property
    def _job(self) -> ScoringJob:
        """The job as it is on this node. Raises `InputError` where the node sees other files than the command."""
        order = self._order
        try:
            os.chdir(order.folder)
        except OSError as error:
            raise _other_files(order.folder, str(error)) from None
        for path, digest in order.files.items():
            if not Path(path).is_file():
                raise _other_files(path, "no such file")
            if sha256(Path(path)) != digest:
                raise _other_files(path, "a file with other contents")
        if order.trust_remote_code:
            from scoreonce.stages.models import loading

            loading.trust_remote_code = True
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

            torch.set_num_threads(_cpu_share())
        return load_scorer(self._job, self._order.extent)


def _cpu_share() -> int:
    """Cores of this node for each CPU that Ray counts on it: `ray start --num-cpus 4` makes four actors of 16 cores."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    counted = next(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["NodeID"] == own)
    return max(1, int((os.cpu_count() or 1) // max(1, counted)))


def _other_files(path: str, found: str) -> InputError:
    return InputError(
        "A node of the Ray cluster does not see the files of this run.",
        found=found,
        where=f"{path} on {socket.gethostname()}",
        fix="Put `out`, `score.store` and the model on a file system that all nodes mount under the same path, and "
        "start the command there.",
    )
