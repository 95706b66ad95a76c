"""What one forward pass gives per completion token.

Dimensions: tokens = completion tokens of all rows, one completion after the other; completions; hidden = width of the
model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor


class TokenStatistics(NamedTuple):
    """Statistics of the next-token distribution, from the same pass over the logits as the log-probs; no gradient."""

    entropy: Float[Tensor, "tokens"]  # float32, nats: -sum_v p log p
    collision_logps: Float[Tensor, "tokens"]  # float32, nats: log sum_v p^2
    top1: Bool[Tensor, "tokens"]  # the token was the most likely one


class Perturbed(NamedTuple):
    """Log-probs under logits moved away from and towards the reference's (epsilon-DPO); no gradient.

    In nats: float32, or, where the reference is `rounded`, bfloat16.
    """

    plus_logps: Float[Tensor, "tokens"]  # under f + epsilon (f - f_ref)
    minus_logps: Float[Tensor, "tokens"]  # under f - epsilon (f - f_ref)
    rounded_logps: Float[Tensor, "tokens"] | None = None  # under f itself, where the others are rounded


class TokenMasks(NamedTuple):
    """Factors for each token's log-ratio and KL divergence (SparsePO, MAPO)."""

    reward: Float[Tensor, "tokens"]  # float32, at least 0
    kl: Float[Tensor, "tokens"]  # float32, at least 0


class CachedTokens(NamedTuple):
    """What the cache has of each completion token."""

    reference_logps: Float[Tensor, "tokens"]  # float32, nats: of the reference
    bounds: tuple[float, float] | None = None  # of log-ratios, nats, where clamped ones are asked for (humanline)
    weights: Float[Tensor, "tokens"] | None = None  # of log-ratios, where weighted ones are asked for (TIS-DPO)


class Routing(NamedTuple):
    """How routers share positions among experts: sums over positions and layers. See `routing`."""

    counts: Float64[Tensor, "experts"]  # choices of each expert; no gradient
    probabilities: Float64[Tensor, "experts"]  # gradients flow
    positions: Float64[Tensor, ""]

    def loss(self) -> Float64[Tensor, ""]:
        """The auxiliary loss of these positions; gradients flow into the probabilities."""
        return len(self.counts) * (self.counts * self.probabilities).sum() / self.positions**2


class TokenScores(NamedTuple):
    """All completions of all rows of a micro-batch. What was not asked for is None."""

    token_logps: Float[Tensor, "tokens"]  # float32, nats; gradients flow
    lengths: Int[Tensor, "completions"]
    statistics: TokenStatistics | None = None
    kl: Float[Tensor, "tokens"] | None = None  # float32, nats: KL(reference || policy); gradients flow
    reference_logps: Float[Tensor, "tokens"] | None = None  # float32, nats; no gradient
    perturbed: Perturbed | None = None
    masks: TokenMasks | None = None  # gradients flow into learnt ones
    hidden: Float[Tensor, "tokens hidden"] | None = (
        None  # the states that predict each token, model's dtype; no gradient
    )
    routing: Routing | None = None  # of a mixture of experts
    cached: CachedTokens | None = None  # of the same tokens; the forward pass has no part in it

    def sums(self) -> Float64[Tensor, "completions"]:
        """Log-probs, summed over each completion's tokens; gradients flow."""
        return sum_per_completion(self.token_logps, self.lengths)


def sum_per_completion(
    values: Shaped[Tensor, "tokens"], lengths: Int[Tensor, "completions"]
) -> Float64[Tensor, "completions"]:
    """Sums of `values`, each over its own completion's tokens."""
    owners = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths, output_size=len(values))
    return torch.zeros(len(lengths), dtype=torch.float64, device=values.device).index_add(0, owners, values.double())
