"""Embedding similarity and CHES by hand, and against the formula written out over positions."""

import math

import pytest
import torch

from scoreonce.pipeline.forward.embeddings import hidden_sums, pair_embeddings


def test_by_hand():
    """S+ = (3, 4), S- = (4, 3): S+ S- = 24, |S+|^2 = |S-|^2 = 25. With n+ = 2, n- = 4: 24 / 8 - 25 / 4."""
    made = pair_embeddings(torch.tensor([[3.0, 4]]), torch.tensor([[4.0, 3]]), torch.tensor([2]), torch.tensor([4]))
    assert [column.item() for column in made] == pytest.approx([24 / 25, -1, 3 - 6.25])


def test_double_sum_over_positions():
    """CHES is the sum over all pairs of positions of inner products of their hidden states, minus that of chosen."""
    torch.manual_seed(0)
    states = torch.randn(9, 5)
    chosen, rejected = states[:3], states[3:]
    sums = hidden_sums(states, [3, 6])
    made = pair_embeddings(sums[:1], sums[1:], torch.tensor([3]), torch.tensor([6]))
    across = sum(float(a @ b) for a in chosen for b in rejected)
    within = sum(float(a @ b) for a in chosen for b in chosen)
    assert made.ches.item() == pytest.approx(across - within, rel=1e-5)
    assert made.ln_ches.item() == pytest.approx(across / 18 - within / 9, rel=1e-5)
    means = chosen.mean(0), rejected.mean(0)
    norms = math.prod(float(mean.norm()) for mean in means)
    assert made.similarity.item() == pytest.approx(float(means[0] @ means[1]) / norms)


def test_the_same_states_on_both_sides():
    sums = torch.randn(4, 6) * 1e4
    made = pair_embeddings(sums, sums, torch.full((4,), 3), torch.full((4,), 3))
    assert made.similarity.tolist() == pytest.approx([1] * 4)
    assert made.similarity.max() <= 1
    assert made.ches.tolist() == made.ln_ches.tolist() == [0] * 4
