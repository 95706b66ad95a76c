"""Which completions are written together."""

from __future__ import annotations

from collections.abc import Sequence


def generation_batches(lengths: Sequence[int], max_new_tokens: int, budget: int) -> list[list[int]]:
    """Indices of prompts by batch, the longest prompts first: memory runs out at once or never.

    A batch of `rows` prompts takes rows * (its longest prompt + `max_new_tokens`) positions of keys and values, at most
    `budget`, but always one row. Prompts of one length keep their order, so that those of similar length pad little.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        if not batches or (len(batches[-1]) + 1) * (longest + max_new_tokens) > budget:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches
