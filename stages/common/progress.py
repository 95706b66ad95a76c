"""Progress of work that takes more than a few seconds: a bar with rate and ETA, or plain lines without a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


class _PlainLines:
    """A stream for tqdm that prints every update as a line of its own."""

    def write(self, text: str) -> None:
        line = text.replace("\r", "").strip()
        if line:
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()


_shown = False  # a library prints nothing unless asked


def show(on: bool) -> None:
    """Show progress bars from now on, or no longer."""
    global _shown
    _shown = on


def shown() -> bool:
    """Whether progress bars are shown."""
    return _shown


@contextmanager
def progress(total: int, unit: str, description: str, *, done: int = 0, enabled: bool = True) -> Iterator[tqdm[Any]]:
    """A bar over `total` units, `done` of them already finished. Use `.update(n)` and `.set_postfix_str(...)`.

    Without a terminal it prints a line at most every 15 seconds, and one at the end.
    """
    terminal = sys.stderr.isatty()
    with tqdm(
        total=total,
        initial=done,
        unit=f" {unit}",
        desc=description,
        disable=not (enabled and _shown),
        file=sys.stderr if terminal else _PlainLines(),
        mininterval=0.2 if terminal else 15,
        maxinterval=15,
        dynamic_ncols=terminal,
        smoothing=0.1,
    ) as bar:
        yield bar
