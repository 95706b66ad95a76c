"""What two completions' hidden states say about their pair: REAL's embedding similarity and the CHES score.

All of it needs one vector per completion: the sum of the reference's hidden states, after the last norm, that predict
its tokens. Dimensions: pairs, hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class PairEmbeddings(NamedTuple):
    """Scalars of each pair, (pairs,) float64."""

    similarity: Tensor  # cosine of the mean-pooled hidden states
    ches: Tensor
    ln_ches: Tensor


def hidden_sums(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """(completions, hidden) float32 sums of `hidden` (tokens, hidden), each over its own `lengths` tokens."""
    return torch.stack([part.double().sum(0).float() for part in hidden.split(list(lengths))])


def pair_embeddings(chosen: Tensor, rejected: Tensor, chosen_len: Tensor, rejected_len: Tensor) -> PairEmbeddings:
    """The scalars of pairs from their `hidden_sums` (pairs, hidden) S+ and S-, and their lengths (pairs,) n+ and n-.

    similarity = S+ . S- / (|S+| |S-|). Source: REAL; its authors pool the states of the response's own positions, the
    response standing alone. Here they are those that predict its tokens, behind the prompt: `score` has them already.
    ches = S+ . S- - |S+|^2; ln_ches the same of the means S / n. Source: Razin et al. 2024, arXiv 2410.08847,
    Definitions 2 and 3: of a dataset's pairs the highest are those where DPO lowers the chosen completion's log-prob.
    """
    chosen, rejected = chosen.double(), rejected.double()
    means = chosen / chosen_len[:, None], rejected / rejected_len[:, None]
    similarity = torch.cosine_similarity(chosen, rejected, dim=1).clamp(-1, 1)
    return PairEmbeddings(similarity, _ches(chosen, rejected), _ches(*means))


def _ches(chosen: Tensor, rejected: Tensor) -> Tensor:
    # In this order a pair of alike completions loses no digits.
    return (chosen * (rejected - chosen)).sum(1)
