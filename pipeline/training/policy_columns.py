"""The columns that the policy's forward pass gives a method: what each is made of, and how.

A method names base columns; `PolicyColumns.of` finds those that the forward pass makes, and says what to ask of it.
What a column needs of the reference beside its log-probs is declared in `schemas.columns` (`needs`).

Dimensions: pairs = pairs of the micro-batch; tokens, completions as in `TokenScores`: pair by pair, a pair's
completions in the order chosen, rejected, mismatched, as far as the method reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from scoreonce.pipeline.head.token_scores import Perturbed, TokenMasks, TokenScores, sum_per_completion
from scoreonce.schemas import columns as c

# The mismatched completion is another prompt's, scored behind this prompt (KTO): the last of its row, no gradient.
Completion = Literal["chosen", "rejected", "mismatched"]
ForwardOutput = Literal[
    "token_logps", "statistics", "kl", "perturbed", "rounded", "masks", "learnt masks", "cached tokens"
]
# What is summed: (tokens,) values from a micro-batch whose rows have so many completions each.
PerToken = Callable[[TokenScores, int], Tensor]
ORDER: tuple[Completion, ...] = ("chosen", "rejected", "mismatched")


@dataclass(frozen=True)
class PolicyColumn:
    """A column as a sum over the tokens of one completion, or of both completions of the pair."""

    column: c.Column
    completions: tuple[Completion, ...]
    reads: ForwardOutput
    per_token: PerToken

    @property
    def name(self) -> str:
        """The column's name."""
        return self.column.name


def _token_logps(scored: TokenScores, completions: int) -> Tensor:
    return scored.token_logps


def _prefix_logps(scored: TokenScores, completions: int) -> Tensor:
    """Log-probs of the tokens before the end of the pair's shorter completion, 0 for the others (LD-DPO)."""
    pair_lengths = scored.lengths.view(-1, completions)
    common = pair_lengths[:, :2].amin(1, keepdim=True).expand_as(pair_lengths).flatten()
    tokens = len(scored.token_logps)
    starts = scored.lengths.cumsum(0) - scored.lengths
    ends = (starts + common).repeat_interleave(scored.lengths, output_size=tokens)
    return scored.token_logps * (torch.arange(tokens, device=ends.device) < ends)


def _collision_logps(scored: TokenScores, completions: int) -> Tensor:
    assert scored.statistics is not None, "the forward pass was not asked for statistics"
    return scored.statistics.collision_logps


def _entropy(scored: TokenScores, completions: int) -> Tensor:
    assert scored.statistics is not None, "the forward pass was not asked for statistics"
    return scored.statistics.entropy


def _plus_logps(scored: TokenScores, completions: int) -> Tensor:
    return _perturbed(scored).plus_logps


def _minus_logps(scored: TokenScores, completions: int) -> Tensor:
    return _perturbed(scored).minus_logps


def _rounded_logps(scored: TokenScores, completions: int) -> Tensor:
    rounded = _perturbed(scored).rounded_logps
    assert rounded is not None, "the reference was not given as rounded"
    return rounded


def _forward_kl(scored: TokenScores, completions: int) -> Tensor:
    assert scored.kl is not None, "the forward pass was not given the reference"
    return scored.kl


def _masked_logratios(scored: TokenScores, completions: int) -> Tensor:
    assert scored.reference_logps is not None, "the forward pass was not given the reference"
    return _masks(scored).reward * (scored.token_logps - scored.reference_logps)


def _masked_forward_kl(scored: TokenScores, completions: int) -> Tensor:
    return _masks(scored).kl * _forward_kl(scored, completions)


def _clamped_logratios(scored: TokenScores, completions: int) -> Tensor:
    assert scored.cached is not None, "no cached log-probs of tokens were given"
    assert scored.cached.bounds is not None, "no bounds of log-ratios were given"
    # Where the log-ratio is just at a bound its gradient passes, as in the authors' code.
    return (scored.token_logps - scored.cached.reference_logps).clamp(*scored.cached.bounds)


def _weighted_logratios(scored: TokenScores, completions: int) -> Tensor:
    assert scored.cached is not None, "no cached log-probs of tokens were given"
    assert scored.cached.weights is not None, "no weights of tokens were given"
    return scored.cached.weights * (scored.token_logps - scored.cached.reference_logps)


def _reward_mask(scored: TokenScores, completions: int) -> Tensor:
    return _masks(scored).reward


def _kl_mask(scored: TokenScores, completions: int) -> Tensor:
    return _masks(scored).kl


def _perturbed(scored: TokenScores) -> Perturbed:
    assert scored.perturbed is not None, "the forward pass was not asked for perturbed log-probs"
    return scored.perturbed


def _masks(scored: TokenScores) -> TokenMasks:
    assert scored.masks is not None, "the forward pass has no token masks"
    return scored.masks


CHOSEN: tuple[Completion, ...] = ("chosen",)
REJECTED: tuple[Completion, ...] = ("rejected",)
MISMATCHED: tuple[Completion, ...] = ("mismatched",)
BOTH: tuple[Completion, ...] = ("chosen", "rejected")

DECLARED: dict[str, PolicyColumn] = {
    column.name: column
    for column in (
        PolicyColumn(c.POLICY_CHOSEN_LOGPS, CHOSEN, "token_logps", _token_logps),
        PolicyColumn(c.POLICY_REJECTED_LOGPS, REJECTED, "token_logps", _token_logps),
        PolicyColumn(c.POLICY_KL_LOGPS, MISMATCHED, "token_logps", _token_logps),
        PolicyColumn(c.POLICY_CHOSEN_PREFIX_LOGPS, CHOSEN, "token_logps", _prefix_logps),
        PolicyColumn(c.POLICY_REJECTED_PREFIX_LOGPS, REJECTED, "token_logps", _prefix_logps),
        PolicyColumn(c.POLICY_CHOSEN_COLLISION_LOGPS, CHOSEN, "statistics", _collision_logps),
        PolicyColumn(c.POLICY_REJECTED_COLLISION_LOGPS, REJECTED, "statistics", _collision_logps),
        PolicyColumn(c.POLICY_CHOSEN_ENTROPY, CHOSEN, "statistics", _entropy),
        PolicyColumn(c.POLICY_REJECTED_ENTROPY, REJECTED, "statistics", _entropy),
        PolicyColumn(c.POLICY_CHOSEN_PLUS_LOGPS, CHOSEN, "perturbed", _plus_logps),
        PolicyColumn(c.POLICY_REJECTED_PLUS_LOGPS, REJECTED, "perturbed", _plus_logps),
        PolicyColumn(c.POLICY_CHOSEN_MINUS_LOGPS, CHOSEN, "perturbed", _minus_logps),
        PolicyColumn(c.POLICY_REJECTED_MINUS_LOGPS, REJECTED, "perturbed", _minus_logps),
        PolicyColumn(c.POLICY_CHOSEN_ROUNDED_LOGPS, CHOSEN, "rounded", _rounded_logps),
        PolicyColumn(c.POLICY_REJECTED_ROUNDED_LOGPS, REJECTED, "rounded", _rounded_logps),
        PolicyColumn(c.POLICY_CHOSEN_FORWARD_KL, CHOSEN, "kl", _forward_kl),
        PolicyColumn(c.POLICY_REJECTED_FORWARD_KL, REJECTED, "kl", _forward_kl),
        PolicyColumn(c.POLICY_CHOSEN_MASKED_LOGRATIOS, CHOSEN, "masks", _masked_logratios),
        PolicyColumn(c.POLICY_REJECTED_MASKED_LOGRATIOS, REJECTED, "masks", _masked_logratios),
        PolicyColumn(c.POLICY_CHOSEN_MASKED_FORWARD_KL, CHOSEN, "masks", _masked_forward_kl),
        PolicyColumn(c.POLICY_REJECTED_MASKED_FORWARD_KL, REJECTED, "masks", _masked_forward_kl),
        PolicyColumn(c.POLICY_CHOSEN_CLAMPED_LOGRATIOS, CHOSEN, "cached tokens", _clamped_logratios),
        PolicyColumn(c.POLICY_REJECTED_CLAMPED_LOGRATIOS, REJECTED, "cached tokens", _clamped_logratios),
        PolicyColumn(c.POLICY_CHOSEN_WEIGHTED_LOGRATIOS, CHOSEN, "cached tokens", _weighted_logratios),
        PolicyColumn(c.POLICY_REJECTED_WEIGHTED_LOGRATIOS, REJECTED, "cached tokens", _weighted_logratios),
        # Their size is a cost, so the masks that have one are learnt.
        PolicyColumn(c.POLICY_REWARD_MASK_L1, BOTH, "learnt masks", _reward_mask),
        PolicyColumn(c.POLICY_KL_MASK_L1, BOTH, "learnt masks", _kl_mask),
    )
}


@dataclass(frozen=True)
class PolicyColumns:
    """The policy columns that a method reads, and with them what is asked of the forward pass."""

    columns: tuple[PolicyColumn, ...]

    @classmethod
    def of(cls, reads: Collection[str]) -> PolicyColumns:
        """Those of a method's base columns that the policy's forward pass makes, by name."""
        return cls(tuple(DECLARED[name] for name in sorted(reads) if name in DECLARED))

    @property
    def names(self) -> frozenset[str]:
        """Names of the columns."""
        return frozenset(column.name for column in self.columns)

    @property
    def completions(self) -> tuple[Completion, ...]:
        """The completions of a prompt row, in their order."""
        read = {completion for column in self.columns for completion in column.completions}
        return tuple(completion for completion in ORDER if completion in read)

    def reads(self, *outputs: ForwardOutput) -> bool:
        """Whether any of these outputs of the forward pass is read."""
        return any(column.reads in outputs for column in self.columns)

    def needs(self, *kept: c.Kept) -> bool:
        """Whether any of these things that `score` keeps of the reference is needed."""
        return any(column.column.needs in kept for column in self.columns)

    def without_mismatched(self) -> PolicyColumns:
        """The columns that do not need the mismatched completion."""
        return PolicyColumns(tuple(column for column in self.columns if "mismatched" not in column.completions))

    def from_scores(self, scored: TokenScores) -> dict[str, Float64[Tensor, "pairs"]]:
        """Each column (pairs,) float64, from a micro-batch whose rows have just `completions`; gradients flow."""
        order = self.completions
        sums: dict[PerToken, Tensor] = {}  # (pairs, completions) of each kind of value, made once for all its columns
        made = {}
        for column in self.columns:
            if column.per_token not in sums:
                values = column.per_token(scored, len(order))
                sums[column.per_token] = _sums(values, scored.lengths).view(-1, len(order))
            own = [order.index(completion) for completion in column.completions]
            total = sums[column.per_token][:, own].sum(1) if len(own) > 1 else sums[column.per_token][:, own[0]]
            made[column.name] = total.detach() if column.completions == MISMATCHED else total
        return made


def _sums(values: Float[Tensor, "tokens"], lengths: Int[Tensor, "completions"]) -> Float64[Tensor, "completions"]:
    sums = sum_per_completion(values, lengths)
    # As in bfloat16 runs: a sum of bfloat16 accumulates in higher precision and is rounded once.
    return sums.bfloat16().double() if values.dtype == torch.bfloat16 else sums
