"""Trying again what may pass: a time-out, a busy server, a broken connection."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from scoreonce.schemas.errors import InputError

Result = TypeVar("Result")

BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)  # nobody's input
# What will be the same the next time. Names stand for classes of packages that need not be installed.
_LASTING: tuple[type[Exception], ...] = (
    InputError,  # was tried already
    FileNotFoundError,
    PermissionError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    NotImplementedError,
    *BUGS,
)
_LASTING_NAMES = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "ParamValidationError",
    "InvalidRegionError",
    "NoRegionError",
    "DefaultCredentialsError",
    "RepositoryNotFoundError",
    "GatedRepoError",
}
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # the local one: a full bucket says something else


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later. Libraries have no common class for that, so what lasts is named."""
    if isinstance(error, _LASTING) or type(error).__name__ in _LASTING_NAMES:
        return False
    return not is_of_the_disk(error)


def is_of_the_disk(error: Exception) -> bool:
    """Whether the local disk is full or may not be written."""
    return isinstance(error, OSError) and error.errno in _OF_THE_DISK


@dataclass(frozen=True)
class Retries:
    """How often something is tried: once, and once more after each of `delays` seconds.

    A delay is shortened by up to a half at random, so that many processes that failed together do not return together.
    """

    delays: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random  # from [0, 1)

    def __call__(self, action: Callable[[], Result]) -> Result:
        """What `action` returns; its last error where no try succeeds, or its first that will not pass."""
        for delay in self.delays:
            try:
                return action()
            except Exception as error:  # clients of object stores have no common class of errors
                if not may_pass(error):
                    raise
            self.sleep(delay * (1 - self.chance() / 2))
        return action()

    def few(self) -> Retries:
        """Three tries, for what was transferred whole and is wrong all the same."""
        return replace(self, delays=self.delays[:2])

    @property
    def tries(self) -> int:
        """How many there are at most."""
        return len(self.delays) + 1


DEFAULT = Retries()
