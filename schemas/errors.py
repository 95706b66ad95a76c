"""The one error that a user can cause, in four parts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from scoreonce.schemas.addresses import without_credentials

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST = 1500  # characters of what was found, in a message that a person reads


class InputError(Exception):
    """Something the user gave cannot be used: what is wrong, what was found, where, what to do. Exit code 2."""

    def __init__(self, what: str, *, found: str, where: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.found, self.where, self.fix = what, _shortened(found), _shortened(where), fix

    def __reduce__(self) -> tuple[Callable[..., InputError], tuple[str, ...]]:
        # As exceptions are copied to another process: by their positional arguments alone otherwise.
        return _input_error, (self.what, self.found, self.where, self.fix)

    def __str__(self) -> str:
        return printable(f"{self.what}\n  found: {self.found}\n  where: {self.where}\n  do:    {self.fix}")


def _input_error(what: str, found: str, where: str, fix: str) -> InputError:
    return InputError(what, found=found, where=where, fix=fix)


def printable(text: str) -> str:
    """Text for a terminal: control characters, which data may hold, are written as `\\x1b` and do nothing there.

    So are those that reverse the direction of text, and halves of surrogate pairs.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _shortened(text: str) -> str:
    text = without_credentials(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"


def did_you_mean(name: str, known: list[str]) -> str:
    """` Did you mean 'x'?` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters, after its type where that is needed to read it."""
    line = (str(error).strip().splitlines() or [""])[0][:300]
    return line if line and isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {line}"
