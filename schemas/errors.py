"""The one error that a user can cause, in four parts."""

from __future__ import annotations

import difflib


class InputError(Exception):
    """Something the user gave cannot be used: what is wrong, what was found, where, what to do. Exit code 2."""

    def __init__(self, what: str, *, found: str, where: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.found, self.where, self.fix = what, found, where, fix

    def __str__(self) -> str:
        return f"{self.what}\n  found: {self.found}\n  where: {self.where}\n  do:    {self.fix}"


def did_you_mean(name: str, known: list[str]) -> str:
    """` Did you mean 'x'?` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
