"""Several processes on one store: each scores a part of the completions, under a lock of its own.

    write.lock         held for its pass by a process that writes alone; by a part, only while it changes what is shared
    parts/3-of-8.lock  held for its pass by the process that scores part 3 of 8

A part takes its own lock first and then, to start, write.lock. So a process that holds write.lock and finds no part at
work stays alone until it lets go. Nobody waits for a part's lock while it holds write.lock: there is no deadlock. The
operating system releases the locks of a process that ends, however it ends.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.locking import exclusive, is_held

PATIENCE = 10.0  # seconds for which a part waits for write.lock without a word: others hold it for moments
_DIGITS = 8  # of a digest, which decide the part
_MARK = re.compile(r"-(\d+of\d+)-")


@dataclass(frozen=True)
class Part:
    """Part `number` of `of`, counted from 1.

    A prompt is in the part of its id, so that its completions stay together and share its computation. A completion has
    one prompt (its id is made of both), so it is in exactly one part, whatever else is in the data or in the store.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """The part that "3/8" names. Raises `InputError` where it names none."""
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(text))
        number, of = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= of:
            raise InputError(
                "There is no such part.",
                found=repr(text),
                where="--part, or `part` in Python",
                fix="Give its number, counted from 1, and how many parts there are: 1/8, 2/8, ... 8/8 are eight parts. "
                "Where a scheduler counts from 0, add 1.",
            )
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def mark(self) -> str:
        """What the names of the files that this part writes contain."""
        return f"{self.number}of{self.of}"

    def holds(self, prompt_id: str) -> pl.Expr:
        """Whether each row is in this part, by the column of prompt ids (hex digits) that is named."""
        return prompt_bits(prompt_id) % self.of == self.number - 1


def prompt_bits(prompt_id: str) -> pl.Expr:
    """The first 32 bits of the prompt ids (hex digits) in the column that is named: they decide the part."""
    return pl.col(prompt_id).str.slice(0, _DIGITS).str.to_integer(base=16).cast(pl.UInt32)


def parts_of(bits: pl.Series, of: int) -> list[Part]:
    """The parts, of so many, in which the prompts with these `prompt_bits` are, in order."""
    return [Part(number + 1, of) for number in (bits % of).unique().sort()]


def mark_of(path: Path) -> str | None:
    """The mark of the part that wrote a file, finished or not; None where no part did."""
    found = _MARK.search(path.name)
    return found and found[1]


@contextmanager
def alone(folder: Path, name: str, *, timeout: float | None = None) -> Iterator[None]:
    """Be the only process that writes to the store in `folder`, called `name` in messages.

    Waits for another writer and for parts at work, for at most `timeout` seconds; then raises `InputError`, which names
    the process.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        with exclusive(folder / "write.lock", name, timeout=_left(deadline)):
            busy = _at_work(folder)
            if busy is None:
                yield
                return
        with exclusive(busy, f"part {busy.stem.replace('-of-', '/')} of {name}", timeout=_left(deadline)):
            pass  # it has ended; another may have begun


@contextmanager
def changing(folder: Path, name: str, *, timeout: float | None = None) -> Iterator[None]:
    """Be the only one, for a moment, that changes what the parts of a store share."""
    with exclusive(folder / "write.lock", name, timeout=timeout, patience=PATIENCE):
        yield


@contextmanager
def working(folder: Path, part: Part, name: str, *, timeout: float | None = None) -> Iterator[None]:
    """Be the only process that scores a part."""
    path = folder / "parts" / f"{part.number}-of-{part.of}.lock"
    path.parent.mkdir(exist_ok=True)
    with exclusive(path, f"part {part} of {name}", timeout=timeout):
        yield


def _at_work(folder: Path) -> Path | None:
    """The lock of a part that a process is scoring."""
    return next((path for path in sorted((folder / "parts").glob("*.lock")) if is_held(path)), None)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
