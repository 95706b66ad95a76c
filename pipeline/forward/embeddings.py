"""How alike a pair's completions are by their hidden states: REAL's embedding similarity and the CHES score.

Both need one vector per completion: the sum of the reference's hidden states, after the last norm, that predict
its tokens. Dimensions: pairs, hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor


class PairEmbeddings(NamedTuple):
    """Scalars of each pair."""

    similarity: Float64[Tensor, "pairs"]  # cosine of the mean-pooled hidden states
    ches: Float64[Tensor, "pairs"]
    ln_ches: Float64[Tensor, "pairs"]


def hidden_sums(hidden: Float[Tensor, "tokens hidden"], lengths: Sequence[int]) -> Float[Tensor, "completions hidden"]:
    """Sums of the hidden states of each completion, float32; `lengths` are the completions' tokens."""
    return torch.stack([part.double().sum(0).float() for part in hidden.split(list(lengths))])


def pair_embeddings(
    chosen: Float[Tensor, "pairs hidden"],
    rejected: Float[Tensor, "pairs hidden"],
    chosen_len: Int[Tensor, "pairs"],
    rejected_len: Int[Tensor, "pairs"],
) -> PairEmbeddings:
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
    # S+ . (S- - S+) and not S+ . S- - |S+|^2, which loses digits where the completions are alike.
    return (chosen * (rejected - chosen)).sum(1)
