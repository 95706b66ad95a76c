"""Draw frames until every run has ended."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live

from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.watch.frame import frame
from scoreonce.stages.watch.runs import ENDED, WatchedRun, chosen, require_logged

INTERVAL = 1.0  # seconds between frames
WITHOUT_TERMINAL = (100, 30)  # columns and lines of a frame that goes to a file


def watch(
    run: Run, *, labels: Sequence[str] = (), once: bool = False, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Show how training runs go, until all of them have ended or Ctrl-C.

    `once`, or where the output is no terminal: one frame. Without `labels` the runs that are training, else the one
    that trained last. Raises `InputError` for a frame of runs of which there is nothing to show.
    """
    paths = RunPaths.of(run)
    runs = [WatchedRun(each) for each in chosen(paths, labels)]
    if once or not sys.stdout.isatty():
        encoding = sys.stdout.encoding or "utf-8"  # which may have no dots
        print(single(paths, runs).encode(encoding, "replace").decode(encoding))
    else:
        _live(runs, sleep)


def single(paths: RunPaths, runs: Sequence[WatchedRun]) -> str:
    """One frame, without colour. Raises `InputError` where no run has logged anything."""
    states = [each.look() for each in runs]
    require_logged(paths, states)
    columns, lines = shutil.get_terminal_size(WITHOUT_TERMINAL)
    shown = frame(states, columns, max(lines, WITHOUT_TERMINAL[1]), colours=False).plain
    return "\n".join(line.rstrip() for line in shown.split("\n"))


def _live(runs: Sequence[WatchedRun], sleep: Callable[[float], None]) -> None:
    console = Console()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as shown:
        try:
            while True:
                states = [each.look() for each in runs]
                colours = console.color_system is not None and not console.no_color
                shown.update(frame(states, console.width, console.height - 1, colours=colours), refresh=True)
                if all(state.state in ENDED for state in states):
                    return
                sleep(INTERVAL)
        except KeyboardInterrupt:
            return  # training goes on: nothing was interrupted but the looking
