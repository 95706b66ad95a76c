"""Which prompts are computed once and which of them together, by hand."""

import numpy as np

from scoreonce.pipeline.batches.continued_rows import (
    computed_positions,
    continued_microbatches,
    laid_out,
    passes,
    saved_share,
    start_of,
)
from scoreonce.pipeline.batches.prompt_rows import PromptRow


def row(prompt, *completions):
    return PromptRow(np.arange(prompt, dtype=np.int32), tuple(np.arange(each, dtype=np.int32) for each in completions))


def shapes(rows):
    return [(len(each.prompt), *map(len, each.completions)) for each in rows]


def test_what_a_prompt_saves():
    """Prompt 11, completions 5 and 3. Padded: (11 + 4) + (11 + 2) = 28; 10 positions of one prompt less."""
    assert saved_share(row(11, 5, 3)) == 10 / 28
    assert saved_share(row(11, 5)) == saved_share(row(1, 5, 3)) == 0


def test_rows_that_save_little_are_taken_apart():
    """Prompt 3 and completions of 10: 2 of 24 positions, 8 %. Prompt 4: 3 of 26, 12 %."""
    found = laid_out([row(3, 10, 10), row(4, 10, 10)], 100)
    assert shapes(found) == [(3, 10), (3, 10), (4, 10, 10)]


def test_copies_of_a_cache_are_limited():
    """A budget of 50 allows 100 positions in copies of caches: 4 completions of 21 + 5 - 1. They keep their order."""
    found = laid_out([row(21, 5, 4, 3, 2, 1)], 50)
    assert shapes(found) == [(21, 5, 4, 3, 2), (21, 1)]
    assert shapes(laid_out([row(90, 6, 6)], 50)) == [(90, 6), (90, 6)]


def test_the_start_of_a_micro_batch():
    """The shortest prompt but for its last token; nothing where each prompt has one completion."""
    assert start_of([row(9, 2, 2), row(7, 3)]) == 6
    assert start_of([row(9, 2), row(7, 3)]) == 0
    assert start_of([row(1, 2, 2)]) == 0


def test_positions_of_a_micro_batch():
    """Start 6 of both prompts, 12. Then 3 completions, of which the longest is 3 more of its prompt and 2 - 1 = 4."""
    assert computed_positions([row(9, 2, 2), row(7, 3)]) == 12 + 3 * 4


def test_prompts_of_similar_lengths_are_computed_together():
    """Prompts of 40 and 33 are within 8 of each other, 31 is not; 400 and 376 within a 16th. Singles go by length."""
    rows = [row(31, 9, 9), row(40, 9, 9), row(9, 9), row(33, 9, 9), row(400, 9, 9), row(376, 9, 9), row(12, 9)]
    assert continued_microbatches(rows, 10_000) == [[4, 5], [1, 3], [0], [6, 2]]


def test_micro_batches_keep_to_the_budget():
    """Prompts of 21, completions of 11: two rows compute 2 * 20 + 4 * 11 = 84 positions, copies have 4 * 31 = 124.

    Prompts of 41 with four completions of 2: 2 * 40 + 8 * 2 = 96 positions, and copies of 8 * 42 = 336, twice 168.
    """
    pairs = [row(21, 11, 11)] * 2
    assert continued_microbatches(pairs, 84) == [[0, 1]]
    assert continued_microbatches(pairs, 83) == [[0], [1]]
    many = [row(41, 2, 2, 2, 2)] * 2
    assert continued_microbatches(many, 168) == [[0, 1]]
    assert continued_microbatches(many, 167) == [[0], [1]]


def test_every_row_is_in_one_micro_batch():
    random = np.random.default_rng(0)
    rows = [
        row(random.integers(1, 300), *random.integers(1, 90, random.integers(1, 6)))  # type: ignore[misc]
        for _ in range(200)
    ]
    found = laid_out(rows, 512)
    tokens = [len(completion) for each in rows for completion in each.completions]
    assert [len(completion) for each in found for completion in each.completions] == tokens
    batches = continued_microbatches(found, 512)
    assert sorted(number for batch in batches for number in batch) == list(range(len(found)))
    assert all(computed_positions([found[number] for number in batch]) <= 512 for batch in batches if len(batch) > 1)


def test_passes_are_of_similar_lengths():
    """100 and 60 together, 40 is less than half of 100 and 60 positions shorter; 20 and 9 are within 32 of it."""
    assert passes([9, 100, 20, 60, 40]) == [[1, 3], [4, 2, 0]]
    assert passes([1]) == [[0]]
