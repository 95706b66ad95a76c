"""Actors that hold one model together, `score.group_size` of them, led by an actor that gives them the parts.

    GroupLeader    an actor of Ray Data, without a GPU or CPU of its own
     ├ Member 0    an actor on its own GPU or CPU, process 0 of a process group: it holds the locks
     └ Member 1    the same, process 1; and so on

The members are what `torchrun ... scoreonce score --part` starts: each scores its share of a part's shards, and takes
part in the forward passes of the others. Their GPUs are reserved together by a placement group.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from scoreonce.stages.score.ray_worker import Order, Worker, answer, needed
from scoreonce.stages.scoring.processes import Meeting, meet

logger = logging.getLogger(__name__)

WAIT = 60.0  # seconds for which Ray is asked to wait at a time, again and again


class Member:
    """One process of a group."""

    def __init__(self, order: Order, rank: int) -> None:
        self._order, self._rank = order, rank

    def free_port(self) -> tuple[str, int]:
        """The address of this machine, and a port of it that nothing uses now."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def meet(self, meeting: Meeting) -> None:
        """Become a process of the group. Returns when all have come."""
        self._worker = Worker(self._order, meet(meeting, self._rank, self._order.run.compute))

    def score(self, number: int) -> str:
        """This process's share of scoring a part; what `Worker.score` returns."""
        return self._worker.score(number)


class GroupLeader:
    """Scores parts, the rows of Ray Data, by the members of a group.

    A group dies as a whole. Where a member dies or fails, the others wait for it in the middle of a forward pass: the
    leader ends its own process, and Ray ends the members, which are its own, and starts the leader and its part again.
    Where the leader is killed, the same happens.
    """

    def __init__(self, order: Order, starts: Any) -> None:
        self._order, self._starts = order, starts
        self._reserved = reserve(order)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Score the part of a row; what `PartScorer` returns."""
        return answer(row, self._order, self._starts, self._score)

    def _score(self, number: int) -> str:
        import ray.exceptions

        try:
            found = next(filter(None, in_any_order([member.score.remote(number) for member in self._members])), "")
        except ray.exceptions.RayError as error:
            logger.warning("a process of a group has ended, and the group with it, to start again: %s", error)
            self._end()
            os._exit(1)
        if found:  # the others may wait for the one that found it
            self._end()
        return found

    @cached_property
    def _members(self) -> list[Any]:
        """The members, once they have met."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        size = self._order.run.score.group_size
        gpus, cpus = needed(self._order.run)

        def member(rank: int) -> Any:
            place = PlacementGroupSchedulingStrategy(self._reserved, placement_group_bundle_index=rank)
            options = {"num_gpus": gpus, "num_cpus": cpus, "scheduling_strategy": place}
            return ray.remote(Member).options(**options).remote(self._order, rank)

        members = [member(rank) for rank in range(size)]
        address, port = ray.get(members[0].free_port.remote())
        for _ in in_any_order([each.meet.remote(Meeting(address, port, size)) for each in members]):
            pass
        return members

    def _end(self) -> None:
        """End the members at once, wherever they are."""
        import ray

        for member in self.__dict__.pop("_members", []):
            ray.kill(member)


def reserve(order: Order) -> Any:
    """The GPUs or CPUs of a group: all of them, on one machine if one has them. Waits until they are free.

    They are free again when the actor that calls this has ended. One that Ray started again has those that it had.
    """
    import ray
    from ray.util.placement_group import get_placement_group, placement_group

    name = f"scoreonce-{ray.get_runtime_context().get_actor_id()}"
    try:
        reserved = get_placement_group(name)
    except ValueError:
        gpus, cpus = needed(order.run)
        bundle = {resource: count for resource, count in (("GPU", gpus), ("CPU", cpus)) if count}
        reserved = placement_group([bundle] * order.run.score.group_size, strategy="PACK", name=name)
    while not reserved.wait(WAIT):
        pass
    return reserved


def in_any_order(waiting: list[Any]) -> Iterator[Any]:
    """The results of these calls as they come in. Raises what the first that fails raises."""
    import ray

    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        yield ray.get(done[0])
