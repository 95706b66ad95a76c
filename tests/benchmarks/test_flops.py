"""Operations of a forward pass: by hand, and against the tensors that the layouts really make."""

import numpy as np
import pytest
import torch
from compared.world import SHAPE
from flops import Needs, PairLengths, Shape, total
from transformers import LlamaConfig, LlamaForCausalLM

from scoreonce.pipeline.batches import prompt_rows as rows

TINY = Shape(width=2, layers=2, heads=1, feed_forward=3, vocabulary=5)


def test_shared_layout_by_hand():
    """Prompt of 3, completions of 2 and 1: positions 3 + 1 + 0; prompt 3 * 4 / 2 = 6, completion 3 + 1 = 4 visible.

    Read are the prompt's last position, which sees 3, and the completion's, which sees 4.
    """
    assert PairLengths(3, (2, 1)).shared() == Needs(positions=4, visible=10, predictions=3, read=2, seen=7)


def test_repeated_layout_by_hand():
    """Sequences of 5 and 4: 9 positions, 15 + 10 visible. Read are the third and fourth, and again the third."""
    assert PairLengths(3, (2, 1)).repeated() == Needs(positions=9, visible=25, predictions=3, read=3, seen=3 + 4 + 3)


def test_operations_by_hand():
    """A block has 4 * 2^2 + 3 * 2 * 3 = 34 weights, 2 * 2^2 of them for keys and values: the first block of two takes
    2 * 34 * 4 + 4 * 2 * 10 = 352, the last one 2 * (8 * 4 + 26 * 2) + 4 * 2 * 7 = 224; the head 2 * 2 * 5 * 3 = 60.
    """
    needs = PairLengths(3, (2, 1)).shared()
    assert (needs.body(TINY), needs.head(TINY), needs.training(TINY)) == (352 + 224, 60, 3 * 636)


@pytest.mark.parametrize("lengths", [PairLengths(7, (5, 9)), PairLengths(1, (1, 1)), PairLengths(20, (2, 3))])
def test_counts_are_those_of_the_real_layouts(lengths):
    def ids(count):
        return np.arange(count, dtype=np.int32)

    row = rows.PromptRow(ids(lengths.prompt), tuple(ids(count) for count in lengths.completions))
    batch = rows.collate([row], "shared")
    mask, read = rows.attention_mask(batch)[0, 0], batch.predicts.unique()
    visible, seen = int(mask.sum()), int(mask[read].sum())
    assert lengths.shared() == Needs(batch.input_ids.numel(), visible, len(batch.targets), len(read), seen)


def test_total_of_pairs():
    pair = PairLengths(3, (2, 1)).shared()
    assert total([pair, pair]) == Needs(8, 20, 6, 4, 14)


def test_parameters_are_those_of_the_model():
    config = LlamaConfig(
        vocab_size=SHAPE.vocabulary,
        hidden_size=SHAPE.width,
        intermediate_size=SHAPE.feed_forward,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    assert SHAPE.parameters == sum(weight.numel() for weight in model.parameters())
    assert SHAPE.parameters == pytest.approx(12.6e6, rel=0.01)
