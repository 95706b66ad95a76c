"""Scoring by the GPUs or CPUs of a Ray cluster: `score.engine = "ray"`.

The rows of a Ray Data set are parts of the completions, divided by prompt as `score --part` divides them. An actor per
GPU, or per CPU where there is none, or per group of `score.group_size` of them, scores one after the other and writes
to the store itself. Ray gives a part to an actor that is free, starts actors where nodes join, and gives a part again
where its actor died.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Event, Thread
from typing import Any, Literal

from scoreonce.schemas.addresses import is_address
from scoreonce.schemas.errors import InputError
from scoreonce.stages.cluster.connection import connected, counted, require_ray
from scoreonce.stages.cluster.node import Surroundings
from scoreonce.stages.common.progress import progress
from scoreonce.stages.config import Run
from scoreonce.stages.score.ray_group import GroupLeader
from scoreonce.stages.score.ray_worker import Order, PartScorer, Starts, needed
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.rows import Extent
from scoreonce.stages.scoring.run import ScoringResult, count_missing, plan
from scoreonce.stages.store.parts import Part
from scoreonce.stages.store.sidecar import read_sidecar
from scoreonce.stages.store.store import ReferenceStore

logger = logging.getLogger(__name__)

# Parts of two shards keep the actors equally busy to the end. Each reads the table of pairs once, so there are not more
# than this many.
PART_SHARDS, MOST_PARTS = 2, 512
POLL = 5.0  # seconds between two looks at the store, for the progress bar
# Ray Data says when it begins and ends, and that it shows no bar of its own.
_TOO_TALKATIVE = ("ray.data._internal.execution", "ray.data._internal.progress")

ENGINE = 'score.engine = "ray", or --engine ray'


def require_engine(run: Run, part: str | None) -> None:
    """Raise `InputError` where the engine that the run names cannot score it."""
    if run.score.engine == "local":
        if run.score.group_size > 1:
            raise InputError(
                "Only Ray puts processes into groups.",
                found=f'score.group_size = {run.score.group_size}, score.engine = "local"',
                where="score.group_size, or --group-size",
                fix="Add --engine ray, or leave it out and start one process for each GPU with torchrun.",
            )
        return
    require_ray("Scoring", ENGINE)
    if part is not None:
        fix = "Leave out --part, or --engine ray."
        raise _refused("With Ray there are no parts to choose: it divides the work itself.", f"--part {part}", fix)
    _require_group(run)
    kept = {"score.store": run.score.store, "out": run.out}
    if at_address := [f"{key} = {place!r}" for key, place in kept.items() if place and is_address(place)]:
        raise _refused(
            "Ray's workers share files by a file system, not by an address.",
            ", ".join(at_address),
            "Set both to folders that all nodes see, or score parts: `scoreonce score RUN.toml --part 1/8`.",
        )


def _require_group(run: Run) -> None:
    shard, size = run.compute.shard, run.score.group_size
    found = f'compute.shard = "{shard}", score.group_size = {size}'
    if shard == "hybrid":
        fix = 'Set compute.shard = "full" and score.group_size (--group-size) to the GPUs that hold one model together.'
        raise _refused("With Ray every group is a replica of the others already.", found, fix)
    if shard == "full" and size == 1:
        fix = 'Set score.group_size (--group-size) to how many, or compute.shard = "none" for a whole model on each.'
        raise _refused("Ray has to know how many GPUs hold a model together.", found, fix)
    if shard == "none" and size > 1:
        fix = 'Set compute.shard = "full", or leave out score.group_size (--group-size).'
        raise _refused("A group holds the model in parts.", found, fix)


def score_with_ray(run: Run, job: ScoringJob, *, lock_timeout: float | None = None) -> ScoringResult:
    """Score every completion of the pairs that the store lacks, on the Ray cluster that is there, or one started here.

    What `score_completions` says of damage, locks and errors is true here too. The seconds are from the first request
    to Ray to the last part, so they include loading the model.
    """
    work = plan(job, lock_timeout=lock_timeout)
    if len(work) == 0:
        return ScoringResult(0, work.wanted)
    size = run.score.group_size
    of = number_of_parts(work.wanted, job.shard_completions * size)
    with connected():
        told = run.replace({"compute.device": _device(run), "compute.shard": "none" if size == 1 else "full"})
        order = Order(
            told,
            of,
            Extent.of(job, work),
            Surroundings.here([job.paths.pairs_manifest, job.store.folder / "identity.json"]),
            job.store.identity.key,
            lock_timeout,
        )
        start = time.perf_counter()
        with _followed(job.store, len(work)):
            _score_parts(order, work.parts(of), _room(told))
        seconds = time.perf_counter() - start
    if missing := count_missing(job, lock_timeout=lock_timeout):
        raise InputError(
            "The store still lacks completions that were scored.",
            found=f"{missing:,} completions, whose files were damaged or removed meanwhile",
            where=str(job.store.folder),
            fix="Give the same command again: it scores what is missing.",
        )
    return ScoringResult(len(work), work.wanted - len(work), work.tokens, seconds)


def number_of_parts(completions: int, together: int) -> int:
    """How many parts Ray hands out, where the processes of an actor score so many completions at the same time.

    It is the same each time, so that a run that goes on divides as the one before did.
    """
    return max(1, min(MOST_PARTS, math.ceil(completions / (PART_SHARDS * together))))


def _refused(what: str, found: str, fix: str) -> InputError:
    return InputError(what, found=found, where=ENGINE, fix=fix)


def _device(run: Run) -> Literal["cpu", "cuda"]:
    """The device of each process: a GPU if the cluster has one now."""
    gpus, device = counted("GPU"), run.compute.device
    if device == "auto":
        return "cuda" if gpus else "cpu"
    if device == "cuda" and not gpus:
        logger.warning("the Ray cluster has no GPU yet; scoring begins when a node with one has joined")
    return device


def _room(run: Run) -> int:
    """For how many actors, or groups of them, the cluster has room now."""
    name = "GPU" if run.compute.device == "cuda" else "CPU"
    there, size = counted(name), run.score.group_size
    if size > 1 and there < size:
        logger.warning(
            f"the Ray cluster has {there} {name}s and a group takes {size}; scoring begins when more have joined"
        )
    return there // size


def _score_parts(order: Order, parts: list[Part], room: int) -> None:
    """Have Ray score these parts. Raises the first `InputError` of an actor."""
    import ray
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for name in _TOO_TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR if name.endswith("progress") else logging.WARNING)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # all busy, with one part at a time each
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    starts = ray.remote(Starts).options(num_cpus=0, scheduling_strategy=here).remote()
    actors: dict[str, Any] = {
        "min_size": 1,
        "max_size": len(parts),
        "initial_size": max(1, min(room, len(parts))),
        "max_tasks_in_flight_per_actor": 1,  # no part waits for an actor that is busy while another is free
    }
    groups = order.run.score.group_size > 1
    gpus, cpus = (0, 0) if groups else needed(order.run)  # the members of a group take what it needs
    takes = {"num_gpus": gpus} if gpus else {"num_cpus": cpus}
    with ray.data.DataContext.current(context):
        rows = ray.data.from_items([{"part": part.number} for part in parts], override_num_blocks=len(parts))
        scored = rows.map(
            GroupLeader if groups else PartScorer,
            fn_constructor_args=(order, starts),
            compute=ray.data.ActorPoolStrategy(**actors),
            **takes,
        )
        with closing(iter(scored.iter_rows())) as done:  # which ends the actors, after an error too
            for row in done:
                if row["problem"]:
                    what, found, where, fix = json.loads(row["problem"])
                    raise InputError(what, found=found, where=where, fix=fix)


@contextmanager
def _followed(store: ReferenceStore, total: int) -> Iterator[None]:
    """A progress bar that counts what is in the store, whoever writes it."""
    seen, ended = set(store.shards()), Event()
    start, done = time.perf_counter(), 0
    with progress(total, "completions", "scoring") as bar:

        def look() -> None:
            nonlocal done
            new = [shard for shard in store.shards() if shard not in seen]
            seen.update(new)
            rows = sum(read_sidecar(shard)[0].get("rows", 0) for shard in new)
            done += rows
            bar.set_postfix_str(f"{done / 2 / (time.perf_counter() - start):,.0f} pairs/s", refresh=False)
            bar.update(rows)

        def follow() -> None:
            while not ended.wait(POLL):
                look()

        follower = Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            ended.set()
            follower.join()
            look()
