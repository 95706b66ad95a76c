"""Columns for every method, and what values worked out by hand are compared with."""

import math
from typing import Any

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
        columns[f"policy_{side}_clamped_logratios"] = (policy - reference).clamp(-1.5, 1.5)
        columns[f"policy_{side}_weighted_logratios"] = 0.9 * (policy - reference)
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
        for name in ("masked_logratios", "clamped_logratios", "weighted_logratios"):
            columns[f"policy_{side}_{name}"] = nats
        columns[f"policy_{side}_forward_kl"] = columns[f"policy_{side}_masked_forward_kl"] = nats.abs()
    return columns | {"policy_kl_logps": columns["ref_kl_logps"] + chosen}


def leaves(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, the policy's columns requiring gradient."""
    return {
        name: column.detach().clone().requires_grad_() if name.startswith("policy_") else column
        for name, column in columns.items()
    }


def rows(columns: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {name: column[index] for name, column in columns.items()}


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pairs(chosen: list[float], rejected: list[float], *, lens: tuple[float, float] = (1, 1)) -> dict[str, Tensor]:
    """Pairs with these log-ratios: the policy at -20 nats plus the log-ratio, the reference at -20."""
    one = torch.ones(len(chosen), dtype=torch.float64)
    return {
        "policy_chosen_logps": (tensor(*chosen) - 20).requires_grad_(),
        "policy_rejected_logps": (tensor(*rejected) - 20).requires_grad_(),
        "ref_chosen_logps": -20 * one,
        "ref_rejected_logps": -20 * one,
        "chosen_len": lens[0] * one,
        "rejected_len": lens[1] * one,
    }


def assert_near(actual: Tensor | None, *expected: float) -> None:
    assert actual is not None
    torch.testing.assert_close(actual.detach().reshape(-1), tensor(*expected), rtol=1e-9, atol=1e-12)


def losses(name: str, columns: dict[str, Tensor], **settings: Any) -> Tensor:
    return methods.apply(name, columns, **settings).losses


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
