"""The connection of a command to Ray, and what the cluster has."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from scoreonce.schemas.errors import InputError, first_line


def require_ray(what: str, where: str) -> None:
    """Raise `InputError` where Ray cannot do what the setting `where` asks of it: `what`, "Scoring" say."""
    if find_spec("ray") is None:
        raise InputError(
            f"{what} with Ray needs the ray package.",
            found="ray is not installed",
            where=where,
            fix="pip install 'scoreonce[ray]'.",
        )
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise InputError(
            "Ray starts its processes itself.",
            found=f"a launch of {processes} processes (WORLD_SIZE)",
            where=where,
            fix="Start the command once, without torchrun and accelerate launch.",
        )


@contextmanager
def connected() -> Iterator[None]:
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
            fix="`ray status` shows whether a cluster is there; one that asks for a token wants RAY_AUTH_MODE=token. "
            "Without RAY_ADDRESS and `ray start`, one is started on this machine.",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def counted(resource: str) -> int:
    """How many the cluster has now of "GPU" or "CPU"."""
    import ray

    return int(ray.cluster_resources().get(resource, 0))


def cpu_share() -> int:
    """Cores of this node for each CPU that Ray counts on it: `ray start --num-cpus 4` makes four actors of 16 cores."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    there = next(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["NodeID"] == own)
    return max(1, int((os.cpu_count() or 1) // max(1, there)))
