"""The processes of a launch: their mesh, work that one of them does for all, and how they part."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from scoreonce.schemas.errors import InputError

if TYPE_CHECKING:
    from accelerate import PartialState

    from scoreonce.stages.config import Compute  # pydantic, not on a bare GPU image

Result = TypeVar("Result")


def mesh_of(compute: Compute, device: torch.device) -> DeviceMesh | None:
    """The mesh to shard a model over, None where every process keeps all of it, as where "auto" is not decided.

    "full" shards over all processes; "hybrid" over those of a machine, and machines are replicas of each other. Raises
    `InputError` where machines have different numbers of them, and where there is nothing to offload.
    """
    if compute.offload:
        _require_offload(compute, device)
    if compute.shard in ("none", "auto") or not dist.is_initialized():
        return None
    count = dist.get_world_size()
    own = int(os.environ.get("LOCAL_WORLD_SIZE", count)) if compute.shard == "hybrid" else count
    if count % own:
        raise InputError(
            "Machines that are replicas of each other need the same number of processes.",
            found=f"{count} processes, {own} of them on this machine",
            where='compute.shard = "hybrid"',
            fix='Start as many on each machine, or set compute.shard = "full".',
        )
    if own == count:
        return init_device_mesh(device.type, (count,))
    return init_device_mesh(device.type, (count // own, own), mesh_dim_names=("replicas", "shards"))


def _require_offload(compute: Compute, device: torch.device) -> None:
    if device.type == "cpu":
        raise InputError(
            "Offloading takes weights out of a GPU's memory, and there is no GPU.",
            found=f"compute.offload = true, compute.device = {compute.device!r}, no CUDA device in use",
            where="compute.offload",
            fix="Set compute.offload = false.",
        )
    if compute.shard in ("none", "auto") or not dist.is_initialized():
        raise InputError(
            "Only a model in parts can be offloaded.",
            found=f"compute.shard = {compute.shard!r}, "
            + ("several processes" if dist.is_initialized() else "a process that no launcher started"),
            where="compute.offload",
            fix='Set compute.shard = "full" and start one process for each GPU with torchrun, also for a single GPU.',
        )


def joined(compute: Compute) -> PartialState:
    """The processes of this launch, connected by gloo on CPUs and NCCL on GPUs, which part when this one ends."""
    from accelerate import PartialState

    part_at_exit()
    return PartialState(cpu=compute.device == "cpu")


@cache
def part_at_exit() -> None:
    """Have this process end its gloo group, which may come later, before the interpreter ends.

    Threads of a group that is still there then can abort the process when all its work is done ("terminate called
    without an active exception"): 15 of 56 launches on a busy machine. NCCL's group is left to torch.
    """
    atexit.register(_part)


def _part() -> None:
    if dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


def while_others_wait(work: Callable[[], None] | None, device: torch.device) -> None:
    """Do `work` on the processes that have some; all return when it is done, however long it takes.

    A collective that some wait in ends after minutes, so all meet about once a second. Raises there what `work` raises.
    """
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(work) if work is not None else None
        while True:
            busy = bool(doing and wait([doing], timeout=1.0).not_done)
            flag = torch.tensor(float(busy), device=device)
            dist.all_reduce(flag)
            if not flag.item():
                break
        if doing is not None:
            doing.result()


def on_first(work: Callable[[], Result]) -> Result:
    """What `work` returns on the first process, on all of them; so does an `InputError` that it raises there."""
    if not dist.is_initialized():
        return work()
    answer: list[tuple[Result | None, tuple[str, str, str, str] | None]] = [(None, None)]
    if dist.get_rank() == 0:
        try:
            answer = [(work(), None)]
        except InputError as error:
            answer = [(None, (error.what, error.found, error.where, error.fix))]
    dist.broadcast_object_list(answer, src=0)
    result, problem = answer[0]
    if problem is not None:
        what, found, where, fix = problem
        raise InputError(what, found=found, where=where, fix=fix)
    return result  # type: ignore[return-value]  # of the type that work returns
