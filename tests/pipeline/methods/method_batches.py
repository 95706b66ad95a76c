"""Columns for every method: random ones, and ones worked out from logits."""

import torch
from torch import Tensor

from scoreonce.pipeline import methods
from scoreonce.pipeline.methods import METHODS

SIDES = ("chosen", "rejected")
READS = frozenset(name for method in METHODS.values() for name in method.reads)


def batch(count: int = 11, seed: int = 0) -> dict[str, Tensor]:
    """Random pairs: sums of a few tens of nats, log-ratios of a few, scores, and draws; every column of any method."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64)

    lens = {side: torch.randint(20, 30, (count,), generator=generator) for side in SIDES}
    columns: dict[str, Tensor] = {f"{side}_len": length for side, length in lens.items()}
    for side, length in lens.items():
        reference = -length * (1 + torch.rand(count, generator=generator, dtype=torch.float64))
        columns[f"ref_{side}_logps"] = reference
        columns[f"policy_{side}_logps"] = policy = reference + 3 * normal()
        columns[f"ref_{side}_prefix_logps"] = reference / 2
        columns[f"policy_{side}_prefix_logps"] = policy / 2 + normal()
        columns[f"policy_{side}_collision_logps"] = policy + length * normal() / 10
        columns[f"policy_{side}_plus_logps"] = policy + 0.1 * normal()
        columns[f"policy_{side}_minus_logps"] = 2 * policy - columns[f"policy_{side}_plus_logps"]
        columns[f"policy_{side}_forward_kl"] = 3 * normal().abs()
        columns[f"policy_{side}_masked_logratios"] = normal()
        columns[f"policy_{side}_masked_forward_kl"] = normal().abs()
        columns[f"{side}_preference"] = torch.rand(count, generator=generator, dtype=torch.float64)
    columns |= {"policy_reward_mask_l1": 9 * normal().abs(), "policy_kl_mask_l1": 9 * normal().abs()}
    columns |= {"ref_kl_logps": 10 * normal() - 200}
    columns |= {"policy_kl_logps": columns["ref_kl_logps"] + normal() + 1}
    columns |= {"rejected_score": 1 + normal().abs()}
    columns |= {"chosen_score": columns["rejected_score"] + 0.1 + normal().abs()}
    return columns | {"exponential_draws": methods.exponential_draws(count, generator)}


def moved(columns: dict[str, Tensor], chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """The columns with these log-ratios on every column of the forward pass."""
    columns = dict(columns)
    for side, nats in (("chosen", chosen), ("rejected", rejected)):
        for name in ("logps", "prefix_logps"):
            columns[f"policy_{side}_{name}"] = columns[f"ref_{side}_{name}"] + nats
        for name in ("plus_logps", "minus_logps", "collision_logps"):
            columns[f"policy_{side}_{name}"] = columns[f"ref_{side}_logps"] - nats
        columns[f"policy_{side}_masked_logratios"] = nats
        columns[f"policy_{side}_forward_kl"] = columns[f"policy_{side}_masked_forward_kl"] = nats.abs()
    return columns | {"policy_kl_logps": columns["ref_kl_logps"] + chosen}


def leaves(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, the policy's columns requiring gradient."""
    return {name: column.detach().clone().requires_grad_() if name.startswith("policy_") else column
            for name, column in columns.items()}


def rows(columns: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {name: column[index] for name, column in columns.items()}
