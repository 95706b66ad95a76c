"""Trying again what may pass: a time-out, a busy server, a broken connection."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

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
}
_REFUSED = (401, 403)  # statuses: no credentials, or ones that may not
LONGEST = 16.0  # seconds between two tries
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # the local one: a full bucket says something else


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later. Libraries have no common class for that, so what lasts is named."""
    if not isinstance(error, Exception):  # Ctrl-C
        return False
    if isinstance(error, _LASTING) or type(error).__name__ in _LASTING_NAMES or _is_refusal(error):
        return False
    return not is_of_the_disk(error)


def _is_refusal(error: Exception) -> bool:
    """Whether the service answered that it does not let this user in: huggingface_hub's errors have the response,
    gcsfs's the status, or only words.
    """
    status = getattr(getattr(error, "response", None), "status_code", getattr(error, "code", None))
    return status in _REFUSED or str(error).startswith("Forbidden:")


def is_of_the_disk(error: BaseException) -> bool:
    """Whether the local disk is full or may not be written."""
    return isinstance(error, OSError) and error.errno in _OF_THE_DISK


@dataclass(frozen=True)
class Retries:
    """How often something is tried, six times at most by default, and how long is waited in between.

    1, 2, 4, 8 and 16 seconds, and up to a second more at random, so that many processes that failed together do not
    return together.
    """

    tries: int = 6
    sleep: Callable[[float], None] = time.sleep
    passing: Callable[[BaseException], bool] = may_pass  # which errors are tried again

    def __call__(self, action: Callable[[], Result]) -> Result:
        """What `action` returns; its last error where no try succeeds, or its first that will not pass."""
        attempts = Retrying(
            stop=stop_after_attempt(self.tries),
            wait=wait_exponential(max=LONGEST) + wait_random(0, 1),
            retry=retry_if_exception(self.passing),
            sleep=self.sleep,
            reraise=True,
        )
        return attempts(action)

    def few(self) -> Retries:
        """Three tries, for what was transferred whole and is wrong all the same."""
        return replace(self, tries=3)


DEFAULT = Retries()
