"""Token-budget micro-batches: of rows of like length, or of rows that fill a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scoreonce.pipeline.batches.prompt_rows import PACKED_LAYOUTS, RowLayout

Batcher = Callable[[Sequence[int], int], list[list[int]]]


def batcher_for(layout: RowLayout) -> Batcher:
    """How rows of a layout are grouped: by what their lines take up."""
    return filled_sequences if layout in PACKED_LAYOUTS else microbatches


def microbatches(tokens: Sequence[int], budget: int) -> list[list[int]]:
    """Group row indices so that rows times the longest of them stays within `budget`; a longer row stands alone.

    Rows are sorted by length, longest first: neighbours pad little, and memory runs out at once or never.
    """
    order = sorted(range(len(tokens)), key=lambda row: -tokens[row])
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * tokens[batches[-1][0]] <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def filled_sequences(tokens: Sequence[int], budget: int) -> list[list[int]]:
    """Group row indices so that each group's tokens sum to at most `budget`; a longer row stands alone.

    First fit, longest first: all lines but the last are nearly full, so that they have one length to compile for.
    """
    lines: list[list[int]] = []
    left: list[int] = []
    for row in sorted(range(len(tokens)), key=lambda row: -tokens[row]):
        line = next((line for line, room in enumerate(left) if tokens[row] <= room), None)
        if line is None:
            lines.append([row])
            left.append(budget - tokens[row])
        else:
            lines[line].append(row)
            left[line] -= tokens[row]
    return lines
