"""Log-probs of given tokens from hidden states, without ever storing the logits.

Logits exist for one chunk of tokens at a time, in float32, in forward and in backward; the backward recomputes them
and applies d logp(y) / d logits = onehot(y) - softmax. Nothing of size tokens x vocabulary outlives a chunk.

Dimensions: tokens, hidden, vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# Elements of one chunk of logits. On a CPU 32 MB of float32 stays near the caches; a GPU wants tall products.
CPU_CHUNK_ELEMENTS = 1 << 23
CUDA_CHUNK_ELEMENTS = 1 << 28


class Head(NamedTuple):
    """An output head: logits = softcap * tanh(scale * (W h + bias) / softcap), or without the cap where it is None."""

    weight: Tensor  # (vocabulary, hidden)
    bias: Tensor | None  # (vocabulary,)
    scale: float = 1.0
    softcap: float | None = None


class TokenStatistics(NamedTuple):
    """What else one pass over a chunk of logits gives, per token; no gradient."""

    entropy: Tensor  # (tokens,) float32, nats: -sum_v p log p
    collision_logps: Tensor  # (tokens,) float32, nats: log sum_v p^2
    top1: Tensor  # (tokens,) bool: the token was the most likely one


def chunk_tokens(vocabulary: int, device: torch.device) -> int:
    """Tokens per chunk of logits."""
    return max(1, (CUDA_CHUNK_ELEMENTS if device.type == "cuda" else CPU_CHUNK_ELEMENTS) // vocabulary)


def token_logps(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """`(tokens,)` float32 log-probs of `targets` (tokens,) under `hidden` (tokens, hidden); gradients flow."""
    logps: Tensor = _TokenLogps.apply(hidden, head.weight, head.bias, targets, head.scale, head.softcap)
    return logps


@torch.no_grad()
def token_logps_and_statistics(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, TokenStatistics]:
    """The same log-probs with the statistics of the whole next-token distribution, from the same chunks of logits."""
    parts = []
    for start, stop in _chunks(hidden, head.weight):
        logits = _logits(hidden[start:stop], head)
        log_normaliser, logps = _reduce(logits, targets[start:stop])
        logits -= log_normaliser.unsqueeze(1)  # now log-probs of the whole vocabulary
        top1 = logits.argmax(1) == targets[start:stop]
        probs = logits.exp()
        # p log p -> 0 as p -> 0, also where a masked logit is -inf
        entropy = -torch.einsum("tv,tv->t", probs, logits.clamp(min=torch.finfo(logits.dtype).min))
        collision = torch.einsum("tv,tv->t", probs, probs).log()
        parts.append((logps, entropy.clamp(min=0), collision.clamp(max=0), top1))
    logps, entropy, collision, top1 = (torch.cat(column) for column in zip(*parts, strict=True))
    return logps, TokenStatistics(entropy, collision, top1)


def _chunks(hidden: Tensor, weight: Tensor) -> list[tuple[int, int]]:
    size = chunk_tokens(weight.shape[0], hidden.device)
    return [(start, min(start + size, len(hidden))) for start in range(0, len(hidden), size)]


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    """A product with float32 output: bf16 logits alone would cost 1.6e-2 nats a token."""
    if left.dtype == right.dtype and left.dtype in (torch.float32, torch.float64):
        return left @ right
    if left.device.type == "cuda" and left.dtype == right.dtype:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()  # CPU kernels have no bf16 product with float32 output


def _logits(hidden: Tensor, head: Head) -> Tensor:
    logits = _matmul(hidden, head.weight.T)
    if head.bias is not None:
        logits += head.bias
    if head.scale != 1.0:
        logits *= head.scale
    if head.softcap is not None:
        logits.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits


def _reduce(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    log_normaliser = torch.logsumexp(logits, dim=1)
    chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    # Rounding alone can put a certain token a few ulp above zero, where no log-prob may be.
    return log_normaliser, (chosen - log_normaliser).clamp(max=0)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        head = Head(weight, bias, scale, softcap)
        parts = [
            _reduce(_logits(hidden[start:stop], head), targets[start:stop]) for start, stop in _chunks(hidden, weight)
        ]
        log_normaliser, logps = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, bias, targets, log_normaliser)
        ctx.scale, ctx.softcap = scale, softcap
        return logps

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, log_normaliser = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        head = Head(weight, bias, ctx.scale, ctx.softcap)
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32)) if needs_weight else None
        d_bias = torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32)) if needs_bias else None
        for start, stop in _chunks(hidden, weight):
            logits = _logits(hidden[start:stop], head)
            slope = _softcap_slope(logits, ctx.softcap)
            d_logits = logits.sub_(log_normaliser[start:stop].unsqueeze(1)).exp_()  # softmax
            d_logits *= -upstream[0][start:stop].unsqueeze(1)
            d_logits.scatter_add_(1, targets[start:stop].unsqueeze(1), upstream[0][start:stop].unsqueeze(1))
            if slope is not None:
                d_logits *= slope
            if d_bias is not None:
                d_bias += d_logits.sum(0) * ctx.scale
            d_logits = d_logits.mul_(ctx.scale).to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[start:stop] = _matmul(d_logits, weight)
            if d_weight is not None:
                d_weight += _matmul(d_logits.T, hidden[start:stop])
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None else d_bias.to(bias.dtype),
            None,
            None,
            None,
        )


def _softcap_slope(capped_logits: Tensor, softcap: float | None) -> Tensor | None:
    return None if softcap is None else 1 - (capped_logits / softcap).square()
