"""One chart of a metric in braille dots, all runs in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plotille import Canvas
from rich.text import Text

from scoreonce.pipeline.pages.numbers import number
from scoreonce.stages.watch.figures import series, thinned
from scoreonce.stages.watch.runs import RunState

AXIS = 9  # columns left of the dots, with the axis
DOTS = 2  # in the width of a character
BRAILLE = 0x2800  # the character without dots; the bits above it are the dots
# What tells runs apart, each in turn: colours, or letters in place of dots where there are none.
COLOURS = ("cyan", "yellow", "green", "magenta", "red", "blue")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Curve:
    """A metric that is drawn."""

    metric: str
    title: str


@dataclass(frozen=True)
class Box:
    """The part of the plane that a chart shows, in steps and in the metric's unit, and its size in characters."""

    first: float
    last: float
    low: float
    high: float
    columns: int
    rows: int


def drawn(curve: Curve, runs: Sequence[RunState], width: int, height: int, *, colours: bool) -> list[Text]:
    """The lines of a chart, `height` of them at most `width` characters wide: title, dots, steps.

    Empty where no run has the metric. `height` is at least 4, `width` at least 20.
    """
    found = {index: series(run.rows, curve.metric) for index, run in enumerate(runs)}
    known = {index: points for index, points in found.items() if points[1]}
    if not known:
        return []
    low, high = min(min(values) for _, values in known.values()), max(max(values) for _, values in known.values())
    first, last = min(steps[0] for steps, _ in known.values()), max(steps[-1] for steps, _ in known.values())
    margin = (high - low) / 20 or abs(high) / 20 or 0.5
    box = Box(first, max(last, first + 1), low - margin, high + margin, width - AXIS, height - 2)
    layers = {index: _dots(*points, box) for index, points in known.items()}
    labels = [number(high), *[""] * (box.rows - 2), number(low)]
    rows = _merged(layers, box, letters=len(runs) > 1 and not colours)
    body = [Text(f"{label:>{AXIS - 2}} ┤") + row for label, row in zip(labels, rows, strict=True)]
    begins, ends = number(int(first)), number(int(last))
    return [
        Text(f"{'':>{AXIS}}{curve.title}"),
        *body,
        Text(f"{'':>{AXIS}}{begins}{ends:>{box.columns - len(begins)}}"),
    ]


def _dots(steps: Sequence[float], values: Sequence[float], box: Box) -> list[str]:
    """A run's line in braille, top row first."""
    canvas = Canvas(box.columns, box.rows, box.first, box.low, box.last, box.high)
    points = list(zip(*thinned(steps, values, DOTS * box.columns), strict=True))
    for start, end in zip(points, [*points[1:], points[-1]], strict=True):
        canvas.line(*start, *end)
    return canvas.plot("\n").split("\n")


def _merged(layers: dict[int, list[str]], box: Box, *, letters: bool) -> list[Text]:
    """The lines of several runs over each other; where they meet, the dots of all in the colour of the last."""
    rows = []
    for row in range(box.rows):
        line = Text()
        for column in range(box.columns):
            dots = {index: ord(canvas[row][column]) - BRAILLE for index, canvas in layers.items()}
            there = [index for index, bits in dots.items() if bits]
            if not there:
                line.append(" ")
                continue
            together = 0
            for bits in dots.values():
                together |= bits
            mark = LETTERS[there[-1] % len(LETTERS)] if letters else chr(BRAILLE + together)
            line.append(mark, style=COLOURS[there[-1] % len(COLOURS)])
        rows.append(line)
    return rows
