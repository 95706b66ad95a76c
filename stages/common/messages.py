"""What stages say: records of the logger `scoreonce`, shown by the command line, silent in a library.

A stage calls `logging.getLogger(__name__)`. INFO is what it did and found, WARNING what a person should look at.
"""

from __future__ import annotations

import logging
import sys

from scoreonce.schemas.errors import printable
from scoreonce.stages.common import progress


class _Terminal(logging.Handler):
    """Writes INFO to stdout and everything above to stderr, each as the bare message."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. The streams are looked up each time, so that redirecting them works."""
        stream = sys.stderr if record.levelno > logging.INFO else sys.stdout
        print(printable(self.format(record)), file=stream, flush=True)


def verbose(on: bool = True) -> None:
    """Show what stages say and their progress bars on the terminal, or stop showing them.

    The command line switches this on. In a program or notebook nothing is printed until it is called; records go to
    the logger `scoreonce` all the same.
    """
    logger = logging.getLogger("scoreonce")
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Terminal)]:
        logger.removeHandler(handler)
    progress.show(on)
    if on:
        logger.addHandler(_Terminal())
        logger.setLevel(logging.INFO)


# Optional kernels that these do not find on a machine, and what they say of each other's versions: nothing that a run
# uses, and several lines before the first of ours.
NOISY_IMPORTS = ("bitsandbytes", "torchao", "torch.utils._pytree")


def quiet_imports() -> None:
    """Keep packages that warn while they are imported from the terminal; their errors still reach it.

    For the command line: what a program that imports scoreonce shows is its own choice.
    """
    for name in NOISY_IMPORTS:
        logging.getLogger(name).setLevel(logging.ERROR)
