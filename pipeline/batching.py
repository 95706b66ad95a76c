"""Token-budget micro-batches of rows of like length."""

from __future__ import annotations

from collections.abc import Sequence


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
