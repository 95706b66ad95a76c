"""Token-budget micro-batches of rows of like length."""

from __future__ import annotations

from collections.abc import Sequence


def microbatches(tokens: Sequence[int], budget: int, *, packed: bool = False) -> list[list[int]]:
    """Group row indices so that what a micro-batch computes stays within `budget`; a longer row stands alone.

    That is the sum of its rows where they are packed into one line, else their number times the longest of them.
    Rows are sorted by length, longest first: neighbours pad little, and memory runs out at once or never.
    """
    order = sorted(range(len(tokens)), key=lambda row: -tokens[row])
    batches: list[list[int]] = []
    room = 0
    for row in order:
        cost = tokens[row] if packed or not batches else tokens[batches[-1][0]]
        if batches and cost <= room:
            batches[-1].append(row)
            room -= cost
        else:
            batches.append([row])
            room = budget - tokens[row]
    return batches
