"""The one error that a user can cause, in four parts."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave cannot be used: what is wrong, what was found, where, what to do. Exit code 2."""

    def __init__(self, what: str, *, found: str, where: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.found, self.where, self.fix = what, found, where, fix

    def __str__(self) -> str:
        return f"{self.what}\n  found: {self.found}\n  where: {self.where}\n  do:    {self.fix}"
