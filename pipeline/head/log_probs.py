"""Log-probs of given tokens from hidden states, without storing the logits of all tokens.

Logits exist for one chunk of tokens at a time, in float32. The backward pass recomputes them and applies
d logp(y) / d logits = onehot(y) - softmax. Nothing of size tokens x vocabulary outlives a chunk.

Dimensions: tokens, chunk = tokens of a chunk, hidden, vocabulary.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from scoreonce.pipeline.attention.cpu_matmul import matmul
from scoreonce.pipeline.batches.prompt_rows import CPU_MULTIPLE, round_up
from scoreonce.pipeline.head import kernels
from scoreonce.pipeline.head.token_scores import Perturbed, TokenStatistics

# Logits of one chunk. On a CPU, 32 MB of float32 mostly stays in the caches; a GPU is fast for many tokens at once.
CPU_CHUNK_ELEMENTS = 1 << 23
CUDA_CHUNK_ELEMENTS = 1 << 28


class Head(NamedTuple):
    """An output head: logits = softcap * tanh(scale * (W h + bias) / softcap), or without the cap where it is None."""

    weight: Float[Tensor, "vocabulary hidden"]
    bias: Float[Tensor, "vocabulary"] | None
    scale: float = 1.0
    softcap: float | None = None


class ReferenceLogits(NamedTuple):
    """The reference's next-token distributions, as hidden states that each chunk's logits are made of; no gradient."""

    hidden: Float[Tensor, "tokens hidden"]  # of the reference's width; after the reference's last norm
    head: Head
    perturbation: float | None = None  # epsilon of epsilon-DPO, if its perturbed log-probs are asked for
    rounded: bool = False  # compute those in bfloat16, as its authors' run did

    def logits(self, start: int, stop: int) -> Float[Tensor, "chunk vocabulary"]:
        """Float32 logits of the tokens from `start` to before `stop`."""
        return _logits(self.hidden[start:stop], self.head)


class TopLogps(NamedTuple):
    """An approximation: the reference's largest log-probs, all other tokens as one bin, the tail; no gradient.

    Nothing is known of the tail but its mass, so it is given the policy's shape. That makes KL(reference || policy) the
    KL of the coarser distributions over k tokens and the tail. It is never above the exact KL: what it lacks is
    mass of the tail * KL(reference's tail || policy's tail), by the chain rule of the KL. Its gradient is that of a
    reference with this shape: d / d logits = policy - completed reference.
    """

    ids: Int[Tensor, "tokens k"]
    logps: Float[Tensor, "tokens k"]  # nats
    tail: Float[Tensor, "tokens"]  # nats: log of the mass of all other tokens
    perturbation: float | None = None
    rounded: bool = False

    def completed(
        self, start: int, stop: int, policy_logps: Float[Tensor, "chunk vocabulary"]
    ) -> Float[Tensor, "chunk vocabulary"]:
        """Float32 log-probs of the tokens from `start` to before `stop`, the tail shaped as `policy_logps`."""
        top, ids = self.logps[start:stop].float(), self.ids[start:stop].long()
        tail = self.tail[start:stop].float().unsqueeze(1)
        policy_tail = policy_logps.scatter(1, ids, -math.inf).logsumexp(1, keepdim=True)
        # A policy may give its tail nothing that float32 can hold; then it stays at nothing.
        ahead = tail - policy_tail.clamp(min=torch.finfo(torch.float32).min)
        return (policy_logps + ahead).scatter(1, ids, top.to(policy_logps.dtype))


class TopK(NamedTuple):
    """The largest log-probs of each token's distribution, and what they leave out."""

    ids: Int[Tensor, "tokens k"]  # int32
    logps: Float[Tensor, "tokens k"]  # float16, nats
    # float16, nats: log of the mass of all other tokens, which rounded log-probs do not give: their sum is 1e-4 off
    tail: Float[Tensor, "tokens"]


@torch.no_grad()
def top_k(hidden: Float[Tensor, "tokens hidden"], head: Head, k: int) -> TopK:
    """The `k` largest log-probs at each token, in one pass over the chunks."""
    parts = []
    for start, stop in _chunks(hidden, head.weight):
        logps = _logits(hidden[start:stop], head).log_softmax(1)
        values, ids = logps.topk(min(k, logps.shape[1] - 1), dim=1)
        # At least the least number of float16: a tail of nothing has no logarithm.
        tail = logps.scatter(1, ids, -math.inf).logsumexp(1).clamp(min=torch.finfo(torch.float16).min)
        parts.append((ids.int(), values.half(), tail.half()))
    return TopK(*(torch.cat(column) for column in zip(*parts, strict=True)))


class StateError(NamedTuple):
    """How far the distributions of approximate hidden states are from those of the exact ones."""

    kl: Float[Tensor, "tokens"]  # float32, nats: KL(exact || approximate)
    logps: Float[Tensor, "tokens"]  # float32, nats: log-prob of the token, approximate minus exact


@torch.no_grad()
def state_error(
    hidden: Float[Tensor, "tokens hidden"],
    approximate: Float[Tensor, "tokens hidden"],
    head: Head,
    targets: Int[Tensor, "tokens"],
) -> StateError:
    """The error of `approximate` hidden states under one head, at each token and for the token that followed."""
    parts = []
    for start, stop in _chunks(hidden, head.weight):
        exact, near = (_logits(states[start:stop], head).log_softmax(1) for states in (hidden, approximate))
        own = targets[start:stop].unsqueeze(1)
        parts.append((_kl(exact, near), (near.gather(1, own) - exact.gather(1, own)).squeeze(1)))
    return StateError(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _kl(logps: Tensor, others: Tensor) -> Tensor:
    """KL between rows of log-probs. A token that is masked out (log-prob -inf) adds nothing."""
    probs = logps.exp()
    return torch.einsum("tv,tv->t", probs, (logps - others).masked_fill_(probs == 0, 0))


ReferenceDistribution = ReferenceLogits | TopLogps


class TokenColumns(NamedTuple):
    """What one pass over the chunks gives per token. What was not asked for is None."""

    logps: Float[Tensor, "tokens"]  # float32, nats; gradients flow
    statistics: TokenStatistics | None = None
    kl: Float[Tensor, "tokens"] | None = None  # float32, nats: KL(reference || policy); gradients flow
    reference_logps: Float[Tensor, "tokens"] | None = None  # float32, nats; no gradient
    perturbed: Perturbed | None = None


def chunk_tokens(vocabulary: int, device: torch.device) -> int:
    """Tokens per chunk of logits."""
    if device.type == "cuda":
        return max(1, CUDA_CHUNK_ELEMENTS // vocabulary)
    return round_up(max(1, CPU_CHUNK_ELEMENTS // vocabulary), CPU_MULTIPLE)


def token_logps(
    hidden: Float[Tensor, "tokens hidden"], head: Head, targets: Int[Tensor, "tokens"]
) -> Float[Tensor, "tokens"]:
    """Float32 log-probs of `targets`, in nats; gradients flow."""
    return token_columns(hidden, head, targets).logps


def token_columns(
    hidden: Float[Tensor, "tokens hidden"],
    head: Head,
    targets: Int[Tensor, "tokens"],
    *,
    statistics: bool = False,
    reference: ReferenceDistribution | None = None,
) -> TokenColumns:
    """Reduce each chunk of logits to log-probs of `targets` and whatever else is asked for, in one pass.

    With a `reference`, KL(reference || policy) and its own log-probs of `targets`; with a `perturbation` of it, the
    perturbed log-probs of epsilon-DPO.
    """
    wanted, tokens = _Wanted(head.scale, head.softcap, statistics, reference), len(hidden)
    padding = round_up(tokens, CPU_MULTIPLE) - tokens
    # On a CPU a multiple of CPU_MULTIPLE tokens meets an oneDNN kernel that is compiled already; a reference would need
    # padding too.
    if padding and hidden.device.type == "cpu" and reference is None:
        hidden, targets = pad(hidden, (0, 0, 0, padding)), pad(targets, (0, padding))
    columns = _Columns.apply(hidden, head.weight, head.bias, targets, wanted)
    columns = tuple(column[:tokens] for column in columns)
    logps, rest = columns[0], iter(columns[1:])
    return TokenColumns(
        logps,
        TokenStatistics(*islice(rest, 3)) if statistics else None,
        next(rest) if reference else None,
        next(rest) if reference else None,
        Perturbed(*rest) if reference and reference.perturbation is not None else None,
    )


class _Wanted(NamedTuple):
    scale: float
    softcap: float | None
    statistics: bool
    reference: ReferenceDistribution | None


def _chunks(hidden: Tensor, weight: Tensor) -> list[tuple[int, int]]:
    size = chunk_tokens(weight.shape[0], hidden.device)
    return [(start, min(start + size, len(hidden))) for start in range(0, len(hidden), size)]


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    """A product with float32 output: logits rounded to bfloat16 alone would be 1.6e-2 nats per token off."""
    if left.dtype == right.dtype and left.dtype in (torch.float32, torch.float64):
        return matmul(left, right)
    if left.device.type == "cuda" and left.dtype == right.dtype:
        return torch.mm(left, right, out_dtype=torch.float32)
    return matmul(left.float(), right.float())  # CPU kernels have no bf16 product with float32 output


def _add_matmul(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a product to a float32 `total`; on a GPU within the product, as a second pass would take a third longer."""
    if left.device.type == "cuda" and left.dtype != total.dtype:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += _matmul(left, right)


def _logits(hidden: Tensor, head: Head) -> Tensor:
    logits = _matmul(hidden, head.weight.T)
    if head.bias is not None:
        logits += head.bias
    if head.scale != 1.0:
        logits *= head.scale
    if head.softcap is not None:
        logits.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits


def _reduce_chunk(logits: Tensor, targets: Tensor, statistics: bool) -> list[Tensor]:
    """The log-normaliser, the log-probs and, if asked for, the statistics of a chunk."""
    if kernels.is_worth_compiling(logits):
        return list(
            kernels.compiled(kernels.log_probs_and_statistics if statistics else kernels.log_probs)(logits, targets)
        )
    return list(_with_statistics(logits, targets) if statistics else kernels.log_probs(logits, targets))


def _with_statistics(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """`kernels.log_probs_and_statistics` for a CPU, uncompiled: one exponential, as few passes as possible."""
    likeliest = logits.argmax(1)
    top = logits.gather(1, likeliest.unsqueeze(1))
    behind = logits - top
    shares = behind.exp()
    total = shares.sum(1)
    log_total = total.log()
    log_normaliser = top.squeeze(1) + log_total
    chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    # p log p -> 0 as p -> 0, also where a masked logit is -inf
    behind.clamp_(min=torch.finfo(behind.dtype).min)
    entropy = log_total - torch.linalg.vecdot(shares, behind) / total
    collision = torch.linalg.vecdot(shares, shares).log() - 2 * log_total
    logps = (chosen - log_normaliser).clamp(max=0)
    return log_normaliser, logps, entropy.clamp(min=0), collision.clamp(max=0), likeliest == targets


def _against_reference(
    logits: Tensor, log_normaliser: Tensor, targets: Tensor, reference: ReferenceDistribution, start: int, stop: int
) -> list[Tensor]:
    """KL(reference || policy) of a chunk, the reference's log-probs and, if asked for, the perturbed ones."""
    ref_logits = _reference_logits(reference, start, stop, logits, log_normaliser)
    ref_logps = ref_logits - torch.logsumexp(ref_logits, dim=1, keepdim=True)
    gaps = ref_logps - logits + log_normaliser.unsqueeze(1)
    chosen = ref_logps.gather(1, targets.unsqueeze(1)).squeeze(1).clamp(max=0)
    columns = [torch.einsum("tv,tv->t", ref_logps.exp(), gaps), chosen]
    if reference.perturbation is not None:
        perturbed = _perturbed_in_bfloat16 if reference.rounded else _perturbed
        columns += perturbed(logits, ref_logits, targets, reference.perturbation)
    return columns


def _reference_logits(
    reference: ReferenceDistribution, start: int, stop: int, logits: Tensor, log_normaliser: Tensor
) -> Tensor:
    """The reference's logits of a chunk; `logits` and `log_normaliser` are the policy's."""
    if isinstance(reference, TopLogps):
        return reference.completed(start, stop, logits - log_normaliser.unsqueeze(1))
    return reference.logits(start, stop)


def _perturbed(logits: Tensor, ref_logits: Tensor, targets: Tensor, epsilon: float) -> list[Tensor]:
    # f + eps (f - f_ref) and not (1 + eps) f - eps f_ref: exactly f where policy and reference are equal.
    ahead = (logits - ref_logits).mul_(epsilon)
    return [kernels.log_probs(logits + ahead, targets)[1], kernels.log_probs(logits - ahead, targets)[1]]


def _perturbed_in_bfloat16(logits: Tensor, ref_logits: Tensor, targets: Tensor, epsilon: float) -> list[Tensor]:
    """Plus, minus and the policy itself as in the run of epsilon-DPO's authors: bfloat16 after every operation."""
    f, g = logits.bfloat16(), ref_logits.bfloat16()
    perturbed = ((1 + epsilon) * f - epsilon * g, (1 - epsilon) * f + epsilon * g, f)
    # CUDA's log_softmax computes in float32 and rounds once; the CPU's would round the normaliser too.
    return [kernels.log_probs(each.float(), targets)[1].bfloat16() for each in perturbed]


class _Columns(torch.autograd.Function):
    """Keeps hidden states and log-normalisers; the backward pass makes each chunk's logits again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, wanted: _Wanted
    ) -> tuple[Tensor, ...]:
        head, parts = Head(weight, bias, wanted.scale, wanted.softcap), []
        for start, stop in _chunks(hidden, weight):
            logits, own = _logits(hidden[start:stop], head), targets[start:stop]
            row = _reduce_chunk(logits, own, wanted.statistics)
            if wanted.reference is not None:
                row += _against_reference(logits, row[0], own, wanted.reference, start, stop)
            parts.append(row)
        log_normaliser, *columns = (torch.cat(column) for column in zip(*parts, strict=True))
        kl = 1 + 3 * wanted.statistics  # position of the KL among the columns: after log-probs and statistics
        ctx.save_for_backward(hidden, weight, bias, targets, log_normaliser)
        ctx.wanted, ctx.kl = wanted, kl if wanted.reference is not None else None
        # Gradients flow through log-probs and KL alone.
        ctx.mark_non_differentiable(*(column for index, column in enumerate(columns) if index not in (0, ctx.kl)))
        return tuple(columns)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, log_normaliser = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        wanted, head = ctx.wanted, Head(weight, bias, ctx.wanted.scale, ctx.wanted.softcap)
        up_kl = None if ctx.kl is None else upstream[ctx.kl] * wanted.scale
        up_logps = upstream[0] * wanted.scale
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        d_weight = torch.zeros_like(weight, dtype=_wide(weight)) if needs_weight else None
        d_bias = torch.zeros_like(bias, dtype=_wide(bias)) if needs_bias else None
        for start, stop in _chunks(hidden, weight):
            logits = _logits(hidden[start:stop], head)
            own = (log_normaliser[start:stop], targets[start:stop], up_logps[start:stop])
            if kernels.is_worth_compiling(logits) and up_kl is None and d_bias is None:
                cap = None if wanted.softcap is None else logits.new_full((), wanted.softcap)
                d_logits = kernels.compiled(kernels.gradient)(logits, *own, cap, hidden.dtype)
            else:
                slope = _softcap_slope(logits, wanted.softcap)  # before the logits are overwritten
                probs = logits.sub_(own[0].unsqueeze(1)).exp_()
                d_logits = _d_logits(probs, *own[1:])
                if up_kl is not None:
                    d_logits += _d_kl(probs, wanted.reference, start, stop).mul_(up_kl[start:stop].unsqueeze(1))
                if slope is not None:
                    d_logits *= slope
                if d_bias is not None:
                    d_bias += d_logits.sum(0)
                d_logits = d_logits.to(hidden.dtype)  # so that the two products below run in the model's dtype
            if d_hidden is not None:
                d_hidden[start:stop] = _matmul(d_logits, weight)
            if d_weight is not None:
                _add_matmul(d_weight, d_logits.T, hidden[start:stop])
        d_weight = None if d_weight is None else d_weight.to(weight.dtype)
        return d_hidden, d_weight, None if d_bias is None else d_bias.to(bias.dtype), None, None


def _wide(tensor: Tensor) -> torch.dtype:
    """At least float32, for the sum of a gradient over chunks."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _d_logits(probs: Tensor, targets: Tensor, upstream: Tensor) -> Tensor:
    """upstream * (onehot(target) - softmax)."""
    d_logits = probs * -upstream.unsqueeze(1)
    return d_logits.scatter_add_(1, targets.unsqueeze(1), upstream.unsqueeze(1))


def _d_kl(probs: Tensor, reference: ReferenceDistribution, start: int, stop: int) -> Tensor:
    """d KL(reference || policy) / d logits = policy - reference."""
    if isinstance(reference, TopLogps):
        return probs - reference.completed(start, stop, probs.log()).softmax(1)
    return probs - reference.logits(start, stop).softmax(1)


def _softcap_slope(capped_logits: Tensor, softcap: float | None) -> Tensor | None:
    return None if softcap is None else 1 - (capped_logits / softcap).square()
