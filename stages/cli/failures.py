"""How the command line tells what ended a command."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator

import typer

from scoreonce.schemas.errors import InputError

INTERRUPTED = 130
FINDINGS_EXCEEDED = 3  # of --fail-on, or of doctor


def print_error(kind: str, text: str) -> None:
    """Print to stderr, the kind in colour on a terminal: error, fault or interrupted."""
    colour = typer.colors.YELLOW if kind == "interrupted" else typer.colors.RED
    head = typer.style(f"{kind}:", fg=colour, bold=True) if sys.stderr.isatty() else f"{kind}:"
    print(f"{head} {text}", file=sys.stderr)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def environment_error(error: BaseException) -> InputError | None:
    """An error that the user can fix although no stage expects it: a full disk, a folder without permission."""
    for cause in _causes(error):
        # Some libraries drop the errno of a full disk; `files.atomic` adds it where even the text is gone.
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(cause):
            return InputError(
                "The disk is full. The unfinished file was removed, finished files stay.",
                found=str(cause),
                where="the folder `out` or `score.store` of the run file",
                fix="Free some space or set another folder, and run the same command again.",
            )
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return InputError(
                "A file or folder may not be read or written.",
                found=str(cause),
                where="the path named above",
                fix="Change its permissions, or set another folder in the run file.",
            )
    return None
