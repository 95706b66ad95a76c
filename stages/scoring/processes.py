"""The processes that score together: those of a launch (torchrun, accelerate), or those that another program meets."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from scoreonce.stages.config import Compute


class ProcessGroup(NamedTuple):
    """This process among those that score together, and a barrier over them."""

    rank: int
    world: int
    wait: Callable[[], None]


ALONE = ProcessGroup(0, 1, lambda: None)


class Meeting(NamedTuple):
    """Where processes that no launcher started find each other: at a port of the first one's machine."""

    address: str
    port: int
    world: int


def launched(compute: Compute) -> ProcessGroup:
    """The processes of this launch; `ALONE` where there is no launch."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    from scoreonce.stages.sharded.processes import joined

    state = joined(compute)
    return ProcessGroup(state.process_index, state.num_processes, state.wait_for_everyone)


def meet(meeting: Meeting, rank: int, compute: Compute) -> ProcessGroup:
    """Become process `rank` of a launch, as torchrun would have made it. Returns when all have come.

    Each process has to see one GPU, its own, or none: whichever has that device is its first.
    """
    os.environ |= {
        "MASTER_ADDR": meeting.address,
        "MASTER_PORT": str(meeting.port),
        "WORLD_SIZE": str(meeting.world),
        "RANK": str(rank),
        "LOCAL_WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
    }
    return launched(compute)
