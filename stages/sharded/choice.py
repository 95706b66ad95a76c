"""compute.shard = "auto": parts of a model where several GPUs are used and the whole of it would not fit one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist

from scoreonce.pipeline.memory.peaks import Peak, Shard
from scoreonce.pipeline.pages.numbers import size
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Compute
from scoreonce.stages.memory import peaks
from scoreonce.stages.memory.peaks import Sharing
from scoreonce.stages.sharded.processes import on_first

logger = logging.getLogger(__name__)


class Choice(NamedTuple):
    """A setting of compute.shard, and why."""

    shard: Shard
    reason: str


def choose_shard(
    compute: Compute,
    device: torch.device,
    stage: str,
    peak: Callable[[Sharing], Peak],
    *,
    require: Callable[[], None] = lambda: None,
) -> Shard:
    """compute.shard with "auto" decided for a `stage` ("training") by its estimated `peak`, which is said.

    All processes call this. It is "none" for one process and where there is no GPU, "full" where parts are offloaded.
    `require` raises `InputError` where the run cannot be sharded; then each process keeps the whole model.
    """
    if compute.shard != "auto":
        return compute.shard
    if compute.offload:
        return "full"
    count = dist.get_world_size() if dist.is_initialized() else 1
    if device.type != "cuda" or count == 1:
        return "none"

    def judged() -> Shard:
        memory = torch.cuda.get_device_properties(device).total_memory
        chosen = judge(stage, lambda: peak(Sharing(count)), memory, require)
        logger.info('compute.shard = "auto" is "%s": %s', chosen.shard, chosen.reason)
        return chosen.shard

    return on_first(judged)


def judge(stage: str, peak: Callable[[], Peak], memory: int, require: Callable[[], None]) -> Choice:
    """The choice for GPUs of so many bytes, where the whole model on each has this peak."""
    try:
        whole = peak()
    except InputError as error:
        return Choice("none", f"what {stage} takes cannot be worked out ({error.found})")
    takes = f"with the whole model on each GPU, {stage} takes about {size(whole.bytes)} of {size(memory)}"
    if peaks.fits(whole, memory):
        return Choice("none", takes)
    try:
        require()
    except InputError as error:
        return Choice("none", f"{takes}, and this run cannot be sharded ({error.found})")
    return Choice("full", takes)
