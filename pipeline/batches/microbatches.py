"""Grouping rows into micro-batches under a token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scoreonce.pipeline.batches.prompt_rows import PACKED_LAYOUTS, RowLayout

Batcher = Callable[[Sequence[int], int], list[list[int]]]  # (tokens of each row, budget) -> row indices of each group


def batcher_for(layout: RowLayout) -> Batcher:
    """How rows of a layout are grouped: packed rows fill a sequence, others are padded to the longest."""
    return filled_sequences if layout in PACKED_LAYOUTS else microbatches


def microbatches(tokens: Sequence[int], budget: int) -> list[list[int]]:
    """Group row indices so that the number of rows times the longest is at most `budget`; a longer row stands alone.

    Rows are sorted by length, longest first: similar lengths need little padding, and if memory runs out, it does so
    in the first micro-batch.
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
    """Group row indices so that each group has at most `budget` tokens in all; a longer row stands alone.

    First fit, longest first. All sequences but the last are nearly full, so that few lengths need to be compiled.
    """
    sequences: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(tokens)), key=lambda row: -tokens[row]):
        fitting = next((number for number, left in enumerate(room) if tokens[row] <= left), None)
        if fitting is None:
            sequences.append([row])
            room.append(budget - tokens[row])
        else:
            sequences[fitting].append(row)
            room[fitting] -= tokens[row]
    return sequences
