import numpy as np
import torch

from scoreonce.pipeline.batches.microbatches import batcher_for, filled_sequences, microbatches
from scoreonce.pipeline.batches.prompt_rows import PADDING, PromptRow, attention_mask, collate


def ids(*values):
    return np.array(values, dtype=np.int32)


ROW = PromptRow(ids(10, 11), (ids(20, 21, 22), ids(30, 31)))


def test_layout_by_hand():
    """Prompt 10 11, completions 20 21 22 and 30 31. The last token of each predicts nothing and is left out:
    10 11 | 20 21 | 30. Position 1 (token 11) predicts both first tokens. What follows a row repeats its first token."""
    batch = collate([ROW, PromptRow(ids(5), (ids(6),))], "shared")
    assert ROW.tokens == 5
    assert batch.input_ids.tolist() == [[10, 11, 20, 21, 30], [5, 5, 5, 5, 5]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2], [0, 0, 0, 0, 0]]
    assert batch.segments.tolist() == [[0, 0, 1, 1, 2], [3, -1, -1, -1, -1]]
    assert batch.prompts.tolist() == [[0, 0, 0, 0, 0], [3, -1, -1, -1, -1]]
    assert batch.predicts.tolist() == [1, 2, 3, 1, 4, 5]
    assert batch.targets.tolist() == [20, 21, 22, 30, 31, 6]
    assert batch.lengths.tolist() == [3, 2, 1]


def test_completions_do_not_see_each_other():
    mask = attention_mask(collate([ROW], "shared"))[0, 0].int().tolist()
    assert mask == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]


def test_packed_rows_do_not_see_each_other():
    """Prompt 10 11 with 20 21 22 and 30 31, then prompt 5 with 6 7, in one line: 10 11 | 20 21 | 30 | 5 | 6."""
    batch = collate([ROW, PromptRow(ids(5), (ids(6, 7),))], "flash")
    assert batch.input_ids.tolist() == [[10, 11, 20, 21, 30, 5, 6]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 0, 1]]
    assert batch.predicts.tolist() == [1, 2, 3, 1, 4, 5, 6]
    assert attention_mask(batch)[0, 0, 5:].int().tolist() == [[0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1, 1]]


def test_lines_on_a_cpu_have_a_round_length():
    """7 positions in a line of 64; what follows them is padding."""
    rows = [ROW, PromptRow(ids(5), (ids(6, 7),))]
    exact, rounded = collate(rows, "flash"), collate(rows, "packed")
    assert rounded.input_ids.shape == (1, 64)
    assert rounded.segments[0, 7:].tolist() == [PADDING] * 57
    for whole, part in zip(rounded[:4], exact[:4], strict=True):
        assert torch.equal(whole[:, :7], part)
    for ours, theirs in zip(rounded[4:], exact[4:], strict=True):
        assert torch.equal(ours, theirs)


def test_window_counts_positions_not_places():
    """Window 2: token 30 (position 2) sees position 1 although three places lie between them."""
    mask = attention_mask(collate([ROW], "shared"), window=2)[0, 0].int().tolist()
    assert mask[3] == [0, 0, 1, 1, 0]
    assert mask[4] == [0, 1, 0, 0, 1]


def test_padding_sees_itself_and_nobody_sees_padding():
    mask = attention_mask(collate([ROW, PromptRow(ids(5), (ids(6),))], "shared"))[1, 0]
    assert torch.equal(mask[:, 1:], torch.eye(5, dtype=torch.bool)[:, 1:])


def test_microbatches_stay_within_the_budget_and_lose_nothing():
    """Budget 20, lengths sorted 9 8 5 5 2: {9, 8} costs 2 x 9 = 18; {5, 5, 2} costs 3 x 5 = 15."""
    assert microbatches([5, 9, 2, 8, 5], 20) == [[1, 3], [0, 4, 2]]
    assert microbatches([30, 1], 20) == [[0], [1]]
    assert microbatches([], 20) == []


def test_lines_are_filled_and_lose_nothing():
    """Budget 10, longest first 7 6 4 3 2: 7 + 3, then 6 + 4, then 2; a row of 11 stands alone."""
    assert filled_sequences([3, 7, 4, 6, 2], 10) == [[1, 0], [3, 2], [4]]
    assert filled_sequences([11, 1], 10) == [[0], [1]]
    assert filled_sequences([], 10) == []


def test_layouts_are_grouped_by_what_their_lines_take_up():
    assert [batcher_for(layout) for layout in ("packed", "flex")] == [filled_sequences, filled_sequences]
    assert [batcher_for(layout) for layout in ("shared", "padded")] == [microbatches, microbatches]


def test_the_longest_stand_together_by_hand():
    """Two rows of 20 fill a budget of 40; then four of 10 would, of which there are three, and one of 6."""
    assert microbatches([10, 20, 10, 20, 6, 10], 40) == [[1, 3], [0, 2, 5, 4]]
    assert microbatches([104, 7], 14) == [[0], [1]]
    assert microbatches([], 14) == []
