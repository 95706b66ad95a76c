"""The columns that a policy's forward pass gives a method, per pair, from what it gives per token."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from scoreonce.pipeline.forward.scorer import TokenScores, sum_per_completion

SIDES = ("chosen", "rejected")
MISMATCHED = "kl"  # another prompt's completion behind the prompt (KTO): the last of its row, without gradient
KL_LOGPS = "policy_kl_logps"
# What a column's name says between the side and the end, and which extra of the forward pass it needs.
STATISTICS = frozenset({"collision_logps"})
ROUNDED = frozenset({"rounded_logps"})  # plus, minus and the policy itself in bfloat16
PERTURBED = frozenset({"plus_logps", "minus_logps"}) | ROUNDED
MASKED = frozenset({"masked_logratios", "masked_forward_kl"})
FULL_VOCABULARY = frozenset({"forward_kl"}) | PERTURBED | MASKED
PER_TOKEN = frozenset({"logps", "prefix_logps"}) | STATISTICS | FULL_VOCABULARY
PER_PAIR = frozenset({"policy_reward_mask_l1", "policy_kl_mask_l1"})  # over both completions


def made_here(reads: Collection[str]) -> frozenset[str]:
    """Those of a method's base columns that the policy's forward pass makes."""
    return frozenset(
        name
        for name in reads
        if name in PER_PAIR | {KL_LOGPS} or name in {f"policy_{side}_{what}" for side in SIDES for what in PER_TOKEN}
    )


def sides_of(reads: Collection[str]) -> tuple[str, ...]:
    """The completions that a method reads, chosen first, the mismatched one last."""
    pair = tuple(side for side in SIDES if any(name.startswith(f"policy_{side}_") for name in reads))
    return (*pair, MISMATCHED) if KL_LOGPS in reads else pair


def kinds(names: Collection[str]) -> frozenset[str]:
    """What is summed per completion to make the columns `names`."""
    return frozenset(name.split("_", 2)[2] for name in names if name not in PER_PAIR)


def policy_columns(scored: TokenScores, sides: Collection[str], names: Collection[str]) -> dict[str, Tensor]:
    """`names`, each (pairs,) float64, from a micro-batch whose rows have the completions `sides`; gradients flow."""
    made: dict[str, Tensor] = {}
    for what in sorted(kinds(names)):
        values = _per_token(scored, what, len(sides))
        sums = sum_per_completion(values, scored.lengths)
        if values.dtype == torch.bfloat16:  # a bfloat16 sum accumulates in float32 and is rounded once
            sums = sums.bfloat16().double()
        for number, side in enumerate(sides):
            made[f"policy_{side}_{what}"] = sums[number :: len(sides)]
    if scored.masks is not None:
        for name, mask in (("policy_reward_mask_l1", scored.masks.reward), ("policy_kl_mask_l1", scored.masks.kl)):
            made[name] = sum_per_completion(mask, scored.lengths).view(-1, len(sides))[:, : len(SIDES)].sum(1)
    if MISMATCHED in sides:
        made[KL_LOGPS] = made[KL_LOGPS].detach()
    return {name: made[name] for name in sorted(names)}


def _per_token(scored: TokenScores, what: str, sides: int) -> Tensor:
    """The values (tokens,) whose sum per completion is asked for."""
    if what == "prefix_logps":
        return scored.token_logps * _in_common_length(scored.lengths, sides, len(scored.token_logps))
    if what in MASKED:
        return _masked(scored)[what]
    column = {
        "logps": scored.token_logps,
        "collision_logps": scored.statistics and scored.statistics.collision_logps,
        "forward_kl": scored.kl,
        "plus_logps": scored.perturbed and scored.perturbed.plus_logps,
        "minus_logps": scored.perturbed and scored.perturbed.minus_logps,
        "rounded_logps": scored.perturbed and scored.perturbed.rounded_logps,
    }[what]
    assert column is not None, f"the forward pass was not asked for {what}"
    return column


def _masked(scored: TokenScores) -> dict[str, Tensor]:
    masks, reference_logps, kl = scored.masks, scored.reference_logps, scored.kl
    assert masks is not None, "the forward pass has no masks"
    assert reference_logps is not None, "the forward pass was not given the reference"
    assert kl is not None, "the forward pass was not given the reference"
    return {
        "masked_logratios": masks.reward * (scored.token_logps - reference_logps),
        "masked_forward_kl": masks.kl * kl,
    }


def _in_common_length(lengths: Tensor, sides: int, tokens: int) -> Tensor:
    """1 for the tokens before the end of the shorter completion of a pair, 0 for the rest of the longer (LD-DPO)."""
    common = lengths.view(-1, sides)[:, : len(SIDES)].amin(1, keepdim=True).expand(-1, sides).flatten()
    starts = lengths.cumsum(0) - lengths
    ends = (starts + common).repeat_interleave(lengths, output_size=tokens)
    return torch.arange(tokens, device=lengths.device) < ends
