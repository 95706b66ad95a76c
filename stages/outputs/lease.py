"""Who writes a unit at an address, where there are no locks: an object that its owner writes again and again.

    <address>/.scoreonce/leases/<unit>/000001.json      who, since when; written every `BEAT` seconds

Its age is taken from the service's own clock. One that has not been written for `STALE` seconds is that of a killed
command, and is superseded by the next number. An object is created on the condition that there is none of that name, so
that of two machines one has it. A service that does not keep that condition (see `RemoteFolder.create`) tells apart
machines that begin some seconds after each other, and no others; which is said.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from scoreonce.schemas.errors import InputError
from scoreonce.stages.outputs.unit_copy import SupersededError
from scoreonce.stages.remote.folder import RemoteFile, RemoteFolder

logger = logging.getLogger(__name__)

FOLDER = ".scoreonce/leases"
BEAT, STALE = 20.0, 120.0  # seconds
POLL = 5.0  # seconds between two looks at the lease of another
_NUMBER = re.compile(r"\d{6}\.json")
_keeps_conditions: dict[str, bool] = {}  # by address, found out once in a process


class Lease:
    """The right to write one unit, while it is `held`."""

    def __init__(self, remote: RemoteFolder, unit: str, copy: str) -> None:
        self._all, self._unit = remote.below(f"{FOLDER}/{unit}"), unit
        self._address = remote.address
        self._copy = copy  # names the local copy: who holds its lock knows that an earlier owner there is dead
        self._name, self._token, self._contents = "", secrets.token_hex(8), b""
        self._ended = threading.Event()

    def require_held(self) -> None:
        """Raise `SupersededError` where another machine took this one for dead, after a long pause say."""
        there = self._leases()
        if self._is_mine(there):
            return
        raise SupersededError(
            "Another machine has taken over what this command was writing.",
            found=_owner(self._all.read(max(there)) if there else None),
            where=f"{self._address}/{self._unit}",
            fix=f"It does so where nothing was heard for {STALE:.0f} seconds. Stop one of the two, and run the same "
            "command again on the other.",
        )

    @contextmanager
    def held(self, what: str, *, timeout: float | None, sleep: Callable[[float], None] = time.sleep) -> Iterator[Lease]:
        """Hold the lease in this block, after waiting for another owner for `timeout` seconds, or for ever.

        Raises `InputError` where that is too long.
        """
        self._acquire(what, timeout, sleep)
        beating = threading.Thread(target=self._beat, daemon=True)
        beating.start()
        try:
            yield self
        finally:
            self._ended.set()
            beating.join(BEAT)  # a service that hangs is not waited for
            try:
                self._all.remove(self._name)
            except InputError as error:  # it will be stale soon, and must not hide what ended the block
                logger.warning(f"{error.what} {error.found} ({error.where})")

    def _acquire(self, what: str, timeout: float | None, sleep: Callable[[float], None]) -> None:
        waited, said = 0.0, False
        while True:
            there = self._leases()
            newest = max(there, default=None)
            if newest is None or self._is_dead(newest, there[newest]):
                if self._take(there):
                    return
                pause = random.uniform(0.1, 1.0)  # two that began together
            elif timeout is not None and waited >= timeout:
                raise InputError(
                    f"{what[0].upper()}{what[1:]} is in use by another machine.",
                    found=_owner(self._all.read(newest)),
                    where=f"{self._all.address}/{newest}",
                    fix="Wait until it has finished or stop it, then run the command again. A command that was killed "
                    f"counts as one for {STALE:.0f} seconds, or until the object named above is removed.",
                )
            else:
                if not said:
                    logger.warning(f"waiting: {what} is in use by {_owner(self._all.read(newest))}")
                    said = True
                pause = POLL if timeout is None else min(POLL, timeout - waited)
            sleep(pause)
            waited += pause

    def _is_dead(self, name: str, file: RemoteFile) -> bool:
        """Whether the owner of a lease has ended without giving it back."""
        owner = _parsed(self._all.read(name))
        if owner.get("copy") == self._copy:
            return True
        now = self._now()
        return file.modified is not None and now is not None and now - file.modified > STALE

    def _now(self) -> float | None:
        """The time by the service's clock: when an object was written that is written now."""
        name = f"now-{secrets.token_hex(4)}"
        self._all.write(name, b"")
        try:
            found = self._all.look(name)
        finally:
            self._all.remove(name)
        return found.modified if found else None

    def _take(self, dead: dict[str, RemoteFile]) -> bool:
        """Create the lease that follows on the dead ones; False where another machine is doing the same."""
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        who = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "copy": self._copy}
        self._contents = json.dumps({**who, "token": self._token}).encode()
        self._name = f"{max((int(name[:6]) for name in dead), default=0) + 1:06d}.json"
        if not self._all.create(self._name, self._contents):
            return False
        self._require_conditions()
        others = {name: file for name, file in self._leases().items() if name != self._name}
        if any(dead.get(name) != file for name, file in others.items()):  # one of them lives, or is new
            self._all.remove(self._name)
            return False
        for name in others:
            self._all.remove(name)
        return True

    def _require_conditions(self) -> None:
        """Say it once where the service would let two machines create the same lease."""
        if self._address in _keeps_conditions:
            return
        other = self._contents + b" "
        kept = not self._all.create(self._name, other)
        _keeps_conditions[self._address] = kept
        if not kept:
            logger.warning(
                f"note: the service of {self._address} replaces objects that were to be created only if absent: two "
                "machines that begin to write the same result within seconds are not kept apart"
            )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                if self._is_mine(self._leases()):  # one that was superseded is not written again
                    self._all.write(self._name, self._contents)
            except InputError as error:
                logger.debug("%s", error)  # the next beat tries again

    def _leases(self) -> dict[str, RemoteFile]:
        return {name: file for name, file in self._all.files().items() if _NUMBER.fullmatch(name)}

    def _is_mine(self, there: dict[str, RemoteFile]) -> bool:
        newest = max(there, default=None)
        return newest == self._name and _parsed(self._all.read(newest)).get("token") == self._token


def _parsed(contents: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(contents or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _owner(contents: bytes | None) -> str:
    who = _parsed(contents)
    if not {"pid", "host", "since"} <= who.keys():
        return "an unknown process"
    return f"process {who['pid']} on {who['host']} since {who['since']}"
