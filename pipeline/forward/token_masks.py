"""Token masks from the reference's last hidden states: learnt ones for SparsePO, fixed ones for MAPO.

Dimensions: tokens = completion tokens, hidden = width of the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scoreonce.pipeline.head.token_scores import TokenMasks

Masking = Callable[[Tensor, Tensor], TokenMasks]


class LearntMasks(nn.Module):
    """m = relu(w . layer_norm(h) + b), one for rewards and one for divergences (SparsePO, arXiv 2410.05102, sec. 3.2).

    Starts at m = 1, where SparsePO is TDPO1. The paper's heads read every layer; the store keeps the last one. No
    dropout: a step must give the same result however it is split into micro-batches.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.Linear(width, 2)
        nn.init.zeros_(self.heads.weight)
        nn.init.ones_(self.heads.bias)

    def forward(self, hidden: Float[Tensor, "tokens hidden"], lengths: Int[Tensor, "completions"]) -> TokenMasks:
        """Masks of the tokens whose hidden states are `hidden`."""
        reward, kl = torch.relu(self.heads(self.norm(hidden.to(self.heads.weight.dtype)))).float().unbind(1)
        return TokenMasks(reward, kl)


def activation_masks(hidden: Float[Tensor, "tokens hidden"], lengths: Int[Tensor, "completions"]) -> TokenMasks:
    """The mean activation of each token, rescaled to [0, 1] within its completion (MAPO); 1 where all are equal.

    The paper averages over the outputs of every layer; here it is the last hidden state's mean.
    """
    means = hidden.float().mean(1)
    owners = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=len(means))
    low, high = (_extreme(means, owners, len(lengths), which) for which in ("amin", "amax"))
    spread = (high - low).clamp(min=torch.finfo(means.dtype).tiny)
    mask = torch.where(high > low, (means - low) / spread, 1.0)
    return TokenMasks(mask, mask)


def _extreme(values: Tensor, owners: Tensor, count: int, which: Literal["amin", "amax"]) -> Tensor:
    """For each of `values` (tokens,), the least or largest of its owner's."""
    return values.new_zeros(count).scatter_reduce(0, owners, values, which, include_self=False)[owners]
