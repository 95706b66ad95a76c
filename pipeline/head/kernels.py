"""Reductions of a chunk of logits, each one function for torch.compile to fuse on a GPU.

Run operation by operation, a float32 chunk is read or written 7 times for log-probs, 18 times with statistics and 9
times for the gradient; on an H200 each time costs about an eighth of the product that made the chunk, at a hidden width
of 1,536. Fused, it is read twice, three times and once. Sums are in float32 either way; only their order differs.

Kernel libraries do not fit: cut-cross-entropy and Liger's fused linear losses give log-probs of the targets, but no
entropy or collision log-prob, and Liger's reduces over the batch, where our methods weight each token.

Dimensions: tokens, vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from scoreonce.pipeline.attention import compile_limits


def is_worth_compiling(logits: Tensor) -> bool:
    """Whether compiling pays off where `logits` are: on a GPU. A CPU's chunk stays in its caches."""
    return logits.is_cuda


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of this module, compiled at its first call, and again for the last, shorter chunk."""
    compile_limits.make_room()
    return _compiled(function)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True)


def log_probs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The log-normaliser of `logits` (tokens, vocabulary) and the log-probs of `targets`: (tokens,) each, nats."""
    log_normaliser = torch.logsumexp(logits, dim=1)
    chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    # Rounding alone can put a certain token a few ulp above zero, where no log-prob may be.
    return log_normaliser, (chosen - log_normaliser).clamp(max=0)


def log_probs_and_statistics(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """`log_probs`, and entropy, collision log-prob and whether the target is the likeliest: (tokens,) each."""
    log_normaliser, logps = log_probs(logits, targets)
    every = logits - log_normaliser.unsqueeze(1)
    probs = every.exp()
    entropy = -(probs * every.clamp(min=torch.finfo(every.dtype).min)).sum(1)
    collision = probs.square().sum(1).log()
    return log_normaliser, logps, entropy.clamp(min=0), collision.clamp(max=0), logits.argmax(1) == targets


def gradient(
    logits: Tensor,
    log_normaliser: Tensor,
    targets: Tensor,
    upstream: Tensor,
    softcap: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """`(tokens, vocabulary)` upstream * (onehot(target) - softmax), times the slope of a cap, rounded to `dtype`."""
    probs = (logits - log_normaliser.unsqueeze(1)).exp()
    places = torch.arange(logits.shape[1], device=logits.device)
    made = upstream.unsqueeze(1) * ((places == targets.unsqueeze(1)).to(probs.dtype) - probs)
    if softcap is not None:
        made = made * (1 - (logits / softcap).square())
    return made.to(dtype)
