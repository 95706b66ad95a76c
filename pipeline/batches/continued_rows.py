"""Rows of the layout "continued": which prompts are computed once, and which of them together.

A micro-batch computes the start of its prompts, as many positions as all of them have, and keeps the model's cache of
it. Each completion goes on from a copy of that cache: with the rest of its prompt, one token at least, and its own
tokens, padded on the right. So nothing is padded on the left, which state-space models do not take, and prompts of
similar lengths are computed together. Where the start is 0, each completion is a plain padded sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

from scoreonce.pipeline.batches.microbatches import microbatches
from scoreonce.pipeline.batches.prompt_rows import PromptRow

LEAST_SAVED = 0.1  # share of a row's positions; a row that would save less is computed as padded ones are
# Copies of caches hold a prompt for each of its completions, and are counted in positions too. Twice the budget is
# never less than a pair takes that fits the budget.
COPIES = 2
# Prompts of a micro-batch: the positions by which they are longer than the shortest are computed per completion.
SLACK, SLACK_SHARE = 8, 16  # positions, or the longest prompt divided by this
UNEVEN = 2  # sequences that go on together are at most so many times as long as the shortest of them
FEW = 32  # positions of padding that are not worth a pass of their own


def laid_out(rows: Sequence[PromptRow], budget: int) -> list[PromptRow]:
    """The rows as micro-batches take them; completions keep their order.

    A row that would save little becomes rows of one completion, and one with more completions than copies of its
    prompt's cache are to be kept under the budget is divided.
    """
    found: list[PromptRow] = []
    for row in rows:
        whole = len(row.prompt) + max(map(len, row.completions)) - 1
        most = max(1, COPIES * budget // whole) if saved_share(row) >= LEAST_SAVED else 1
        parts = range(0, len(row.completions), most)
        found += [PromptRow(row.prompt, row.completions[first : first + most]) for first in parts]
    return found


def saved_share(row: PromptRow) -> float:
    """The share of the positions of plain padded sequences that is not computed where a row's prompt is once."""
    count, start = len(row.completions), len(row.prompt) - 1
    return (count - 1) * start / (row.tokens + (count - 1) * len(row.prompt))


def continued_microbatches(rows: Sequence[PromptRow], budget: int) -> list[list[int]]:
    """Group the indices of rows, as `laid_out` gives them, into micro-batches; a longer row stands alone.

    Each computes at most `budget` positions, and keeps at most COPIES times as many in copies of caches.
    """
    single = [number for number, row in enumerate(rows) if len(row.completions) == 1]
    shared = sorted(set(range(len(rows))) - set(single), key=lambda number: -len(rows[number].prompt))
    found = [
        batch
        for window in _similar_prompts(rows, shared)
        for batch in _filled(rows, sorted(window, key=lambda number: -_longest(rows[number])), budget)
    ]
    plain = microbatches([rows[number].tokens for number in single], budget)
    return found + [[single[place] for place in batch] for batch in plain]


def start_of(rows: Sequence[PromptRow]) -> int:
    """How many positions of their prompts the rows of a micro-batch compute once; 0 where no prompt is shared.

    All but the last of the shortest prompt: the last one predicts a completion's first token.
    """
    if all(len(row.completions) == 1 for row in rows):
        return 0
    return min(len(row.prompt) for row in rows) - 1


def computed_positions(rows: Sequence[PromptRow]) -> int:
    """Positions that a micro-batch computes at most, padding counted."""
    start = start_of(rows)
    rest = max(len(row.prompt) - start + _longest(row) - 1 for row in rows)
    return len(rows) * start + sum(len(row.completions) for row in rows) * rest


def passes(lengths: Sequence[int]) -> list[list[int]]:
    """Group the indices of sequences that go on together by their lengths, so that little of it is padding."""
    found: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        longest = lengths[found[-1][0]] if found else 0
        if found and (longest <= UNEVEN * lengths[number] or longest - lengths[number] <= FEW):
            found[-1].append(number)
        else:
            found.append([number])
    return found


def _similar_prompts(rows: Sequence[PromptRow], order: Sequence[int]) -> list[list[int]]:
    """Divide indices, those of the longest prompts first, into groups of prompts of similar lengths."""
    found: list[list[int]] = []
    for number in order:
        longest = len(rows[found[-1][0]].prompt) if found else 0
        if found and longest - len(rows[number].prompt) <= max(SLACK, longest // SLACK_SHARE):
            found[-1].append(number)
        else:
            found.append([number])
    return found


def _filled(rows: Sequence[PromptRow], order: Sequence[int], budget: int) -> list[list[int]]:
    found: list[list[int]] = []
    for number in order:
        if found and _fits([rows[each] for each in (*found[-1], number)], budget):
            found[-1].append(number)
        else:
            found.append([number])
    return found


def _fits(rows: Sequence[PromptRow], budget: int) -> bool:
    copied = sum(len(row.completions) for row in rows) * max(len(row.prompt) + _longest(row) - 1 for row in rows)
    return computed_positions(rows) <= budget and copied <= COPIES * budget


def _longest(row: PromptRow) -> int:
    return max(map(len, row.completions))
