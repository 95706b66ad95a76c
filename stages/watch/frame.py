"""A frame: a table with a line for each run, and charts of their metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.text import Text

from scoreonce.pipeline.pages.numbers import NOTHING, clock, number, percent
from scoreonce.schemas.errors import printable
from scoreonce.schemas.metrics import ACCURACIES, LOSS, MARGINS, PAIRS_PER_SECOND
from scoreonce.stages.watch.curve import COLOURS, LETTERS, Curve, drawn
from scoreonce.stages.watch.figures import last, recent, seconds_left
from scoreonce.stages.watch.runs import RunState

CURVES = (
    Curve(LOSS, "loss"),
    Curve(MARGINS, "reward margin"),
    Curve(ACCURACIES, "accuracy"),
    Curve(PAIRS_PER_SECOND, "pairs per second"),
)
BESIDE = 90  # columns from which two charts stand beside each other
GAP = 3  # columns between them
NARROWEST = 20  # columns of a chart
LOWEST, HIGHEST = 4, 12  # lines of a chart
HEAD = ("step", "loss", "margin", "accuracy", "pairs/s", "time left")
CELLS = (15, 9, 9, 10, 9, 11)  # their widths


def frame(runs: Sequence[RunState], width: int, height: int, *, colours: bool) -> Text:
    """The runs in a terminal of so many columns and lines. What does not fit is left out, to the right and below.

    `colours` tell several runs apart; without them letters do.
    """
    lines = list(_table(runs, colours=colours))
    across = 2 if width >= BESIDE else 1
    down = -(-len(CURVES) // across)
    each = min(HIGHEST, max(LOWEST, (height - len(lines)) // down - 1))
    wide = max(NARROWEST, (width - GAP * (across - 1)) // across)
    charts = [chart for curve in CURVES if (chart := drawn(curve, runs, wide, each, colours=colours))]
    for start in range(0, len(charts), across):
        lines += [Text(), *_beside(charts[start : start + across], wide)]
    for line in lines:
        line.truncate(width, overflow="crop")
    return Text("\n").join(lines[:height])


def _table(runs: Sequence[RunState], *, colours: bool) -> Iterator[Text]:
    lettered = len(runs) > 1 and not colours
    names = [
        f"{LETTERS[index % len(LETTERS)]} {run.label}" if lettered else run.label for index, run in enumerate(runs)
    ]
    widest = max(len("run"), *map(len, names))
    yield Text(f"{'run':<{widest}}{_cells(HEAD)}", style="bold")
    for index, (name, run) in enumerate(zip(names, runs, strict=True)):
        lost = f", {run.unreadable:,} lines of the log cannot be read" if run.unreadable else ""
        label = Text(printable(f"{name:<{widest}}"), style=COLOURS[index % len(COLOURS)])
        yield label + Text(f"{_cells(_figures(run))}  {run.state}{lost}")


def _cells(cells: Sequence[str]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, CELLS, strict=True))


def _figures(run: RunState) -> tuple[str, ...]:
    steps = NOTHING if run.steps is None else f"{run.steps:,}"
    return (
        f"{len(run.rows):,}/{steps}",
        number(last(run.rows, LOSS)),
        number(last(run.rows, MARGINS)),
        percent(last(run.rows, ACCURACIES)),
        number(recent(run.rows, PAIRS_PER_SECOND)),
        clock(seconds_left(run) if run.state == "training" else None),
    )


def _beside(charts: Sequence[Sequence[Text]], width: int) -> Iterator[Text]:
    for row in zip_longest(*charts, fillvalue=Text()):
        yield Text(" " * GAP).join(_padded(cell, width) for cell in row)


def _padded(line: Text, width: int) -> Text:
    return line + Text(" " * (width - len(line)))
