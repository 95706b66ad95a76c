"""What one forward pass gives per completion token.

Dimensions: tokens = completion tokens of all rows, one completion after the other; completions; hidden = width of the
model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TokenStatistics(NamedTuple):
    """Statistics of the next-token distribution, from the same pass over the logits as the log-probs; no gradient."""

    entropy: Tensor  # (tokens,) float32, nats: -sum_v p log p
    collision_logps: Tensor  # (tokens,) float32, nats: log sum_v p^2
    top1: Tensor  # (tokens,) bool: the token was the most likely one


class Perturbed(NamedTuple):
    """Log-probs under logits moved away from and towards the reference's (epsilon-DPO); no gradient.

    (tokens,) nats each: float32, or, where the reference is `rounded`, bfloat16.
    """

    plus_logps: Tensor  # under f + epsilon (f - f_ref)
    minus_logps: Tensor  # under f - epsilon (f - f_ref)
    rounded_logps: Tensor | None = None  # under f itself, where the others are rounded


class TokenMasks(NamedTuple):
    """Factors for each token's log-ratio and KL divergence (SparsePO, MAPO)."""

    reward: Tensor  # (tokens,) float32, at least 0
    kl: Tensor  # (tokens,) float32, at least 0


class TokenScores(NamedTuple):
    """All completions of all rows of a micro-batch. What was not asked for is None."""

    token_logps: Tensor  # (tokens,) float32, nats; gradients flow
    lengths: Tensor  # (completions,) int64
    statistics: TokenStatistics | None = None
    kl: Tensor | None = None  # (tokens,) float32, nats: KL(reference || policy); gradients flow
    reference_logps: Tensor | None = None  # (tokens,) float32, nats; no gradient
    perturbed: Perturbed | None = None
    masks: TokenMasks | None = None  # gradients flow into learnt ones
    hidden: Tensor | None = None  # (tokens, hidden), the states that predict each token, model's dtype; no gradient

    def sums(self) -> Tensor:
        """`(completions,)` float64 log-probs, summed over each completion's tokens; gradients flow."""
        return sum_per_completion(self.token_logps, self.lengths)


def sum_per_completion(values: Tensor, lengths: Tensor) -> Tensor:
    """`(completions,)` float64 sums of `values` (tokens,), each over its own `lengths` (completions,) tokens."""
    owners = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths, output_size=len(values))
    return torch.zeros(len(lengths), dtype=torch.float64, device=values.device).index_add(0, owners, values.double())
