"""Scoring by the GPUs or CPUs of a Ray cluster: `score.engine = "ray"`.

The rows of a Ray Data set are parts of the completions, divided by prompt as `score --part` divides them. An actor per
GPU, or per CPU where there is none, scores one after the other and writes to the store itself. Ray gives a part to an
actor that is free, starts actors where nodes join, and gives a part again where its actor died.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import Any

from scoreonce.schemas.addresses import is_address
from scoreonce.schemas.errors import InputError, first_line
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.progress import progress
from scoreonce.stages.config import Run
from scoreonce.stages.score.ray_worker import Order, PartScorer, Starts
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


def require_ray(run: Run, part: str | None) -> None:
    """Raise `InputError` where this run cannot be scored by Ray."""
    if find_spec("ray") is None:
        raise _refused(
            "Scoring with Ray needs the ray package.", "ray is not installed", "pip install 'scoreonce[ray]'."
        )
    if part is not None:
        fix = "Leave out --part, or --engine ray."
        raise _refused("With Ray there are no parts to choose: it divides the work itself.", f"--part {part}", fix)
    if run.compute.shard in ("full", "hybrid"):
        raise _refused(
            "Ray scores with a whole model on each GPU, not with one that several GPUs hold together.",
            f'compute.shard = "{run.compute.shard}"',
            'Set compute.shard = "none", or score the sharded model with torchrun, in parts on several groups of GPUs.',
        )
    if run.score.store is not None and is_address(run.score.store):
        raise _refused(
            "Ray's workers share the store by a file system, not by an address.",
            f"score.store = {run.score.store!r}",
            "Set score.store to a folder that all nodes see, or score parts: `scoreonce score RUN.toml --part 1/8`.",
        )
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise _refused(
            "Ray starts its processes itself.",
            f"a launch of {processes} processes (WORLD_SIZE)",
            "Start the command once, without torchrun and accelerate launch.",
        )


def score_with_ray(run: Run, job: ScoringJob, *, lock_timeout: float | None = None) -> ScoringResult:
    """Score every completion of the pairs that the store lacks, on the Ray cluster that is there, or one started here.

    What `score_completions` says of damage, locks and errors is true here too. The seconds are from the first request
    to Ray to the last part, so they include loading the model.
    """
    work = plan(job, lock_timeout=lock_timeout)
    if len(work) == 0:
        return ScoringResult(0, work.wanted)
    of = number_of_parts(work.wanted, job.shard_completions)
    with _connected():
        resources, room = _resources(run.compute.device)
        device = "cuda" if "num_gpus" in resources else "cpu"
        alone = run.replace({"compute.device": device, "compute.shard": "none"})
        order = _order(alone, job, of, Extent.of(job, work), lock_timeout)
        start = time.perf_counter()
        with _followed(job.store, len(work)):
            _score_parts(order, work.parts(of), resources, room)
        seconds = time.perf_counter() - start
    if missing := count_missing(job, lock_timeout=lock_timeout):
        raise InputError(
            "The store still lacks completions that were scored.",
            found=f"{missing:,} completions, whose files were damaged or removed meanwhile",
            where=str(job.store.folder),
            fix="Give the same command again: it scores what is missing.",
        )
    return ScoringResult(len(work), work.wanted - len(work), work.tokens, seconds)


def number_of_parts(completions: int, shard_completions: int) -> int:
    """How many parts Ray hands out; the same each time, so that a run that goes on divides as the one before did."""
    return max(1, min(MOST_PARTS, math.ceil(completions / (PART_SHARDS * shard_completions))))


def _refused(what: str, found: str, fix: str) -> InputError:
    return InputError(what, found=found, where='score.engine = "ray", or --engine ray', fix=fix)


@contextmanager
def _connected() -> Iterator[None]:
    """A connection to Ray: the one of this process, else the cluster of RAY_ADDRESS or this machine, else a new one."""
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        ray.init(include_dashboard=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        address = os.environ.get("RAY_ADDRESS")
        raise InputError(
            "Ray does not start, or no Ray cluster answers.",
            found=first_line(error),
            where=f"RAY_ADDRESS={address}" if address else "this machine",
            fix="`ray status` shows whether a cluster is there; without RAY_ADDRESS and `ray start`, one is started on "
            "this machine.",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _resources(device: str) -> tuple[dict[str, int], int]:
    """What an actor takes of the cluster, and for how many there is room now."""
    import ray

    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    if device == "cuda" or (device == "auto" and gpus):
        if not gpus:
            logger.warning("the Ray cluster has no GPU yet; scoring begins when a node with one has joined")
        return {"num_gpus": 1}, gpus
    return {"num_cpus": 1}, int(there.get("CPU", 0))


def _order(run: Run, job: ScoringJob, of: int, extent: Extent, lock_timeout: float | None) -> Order:
    from scoreonce.stages.models import loading

    alike = (job.paths.pairs_manifest, job.store.folder / "identity.json")
    return Order(
        run,
        of,
        extent,
        folder=str(Path.cwd()),
        store_key=job.store.identity.key,
        files={str(path): sha256(path) for path in alike},
        trust_remote_code=loading.trust_remote_code,
        lock_timeout=lock_timeout,
    )


def _score_parts(order: Order, parts: list[Part], resources: dict[str, int], room: int) -> None:
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
    with ray.data.DataContext.current(context):
        rows = ray.data.from_items([{"part": part.number} for part in parts], override_num_blocks=len(parts))
        scored = rows.map(
            PartScorer, fn_constructor_args=(order, starts), compute=ray.data.ActorPoolStrategy(**actors), **resources
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
