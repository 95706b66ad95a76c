"""Reading the public vectors of methods: their inputs as columns, and comparisons at their tolerance."""

from typing import Any

import torch
from torch import Tensor

RTOL = 1e-6
NAMES = {
    "policy_chosen_logps": ("pi_w", "sum_pi_w", "sum_pi"),
    "policy_rejected_logps": ("pi_l", "sum_pi_l"),
    "ref_chosen_logps": ("ref_w", "sum_ref_w", "sum_ref"),
    "ref_rejected_logps": ("ref_l", "sum_ref_l"),
    "chosen_len": ("len_w", "length"),
    "rejected_len": ("len_l",),
}


def columns_of(inputs: dict[str, list[float]]) -> dict[str, Tensor]:
    """The vector's inputs under our names, float64; policy columns as leaves."""
    columns = {
        ours: torch.tensor(inputs[theirs], dtype=torch.float64)
        for ours, aliases in NAMES.items()
        for theirs in aliases
        if theirs in inputs
    }
    return {name: column.requires_grad_() if name.startswith("policy_") else column for name, column in columns.items()}


def equal(actual: Tensor | None, expected: Any) -> None:
    assert actual is not None
    torch.testing.assert_close(actual.detach(), torch.tensor(expected, dtype=torch.float64), rtol=RTOL, atol=1e-12)


def equal_gradients(columns: dict[str, Tensor], chosen: Any, rejected: Any, *, of_averages: bool = False) -> None:
    for side, expected in (("chosen", chosen), ("rejected", rejected)):
        scale = 1 / columns[f"{side}_len"] if of_averages else 1.0
        equal(columns[f"policy_{side}_logps"].grad, (torch.tensor(expected, dtype=torch.float64) * scale).tolist())


def side_columns(side: str, one: dict[str, Any], epsilon: float = 0.01, prefix: int | None = None) -> dict[str, Tensor]:
    """The columns of one completion, 0-d, from its logits by the definitions; gradients flow to `one["leaf"]`."""
    leaf = torch.tensor(one["policy_logits"], dtype=torch.float64, requires_grad=True)
    one["leaf"] = leaf
    reference, tokens = torch.tensor(one["ref_logits"], dtype=torch.float64), torch.tensor(one["tokens"])

    def picked(logits: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]

    policy, ref, difference = picked(leaf), picked(reference), leaf - reference
    divergence = (reference.softmax(-1) * (reference.log_softmax(-1) - leaf.log_softmax(-1))).sum(-1)
    masks = [
        torch.tensor(one.get(name, [0.0] * len(tokens)), dtype=torch.float64) for name in ("reward_mask", "kl_mask")
    ]
    made = {
        "logps": policy.sum(),
        "prefix_logps": policy[:prefix].sum(),
        "forward_kl": divergence.sum(),
        "collision_logps": leaf.softmax(-1).square().sum(-1).log().sum(),
        "plus_logps": picked(leaf + epsilon * difference).sum(),
        "minus_logps": picked(leaf - epsilon * difference).sum(),
        "masked_logratios": (masks[0] * (policy - ref)).sum(),
        "masked_forward_kl": (masks[1] * divergence).sum(),
    }
    return {
        **{f"policy_{side}_{name}": value for name, value in made.items()},
        f"ref_{side}_logps": ref.sum(),
        f"ref_{side}_prefix_logps": ref[:prefix].sum(),
        f"{side}_len": torch.tensor(float(len(tokens))),
        "policy_reward_mask_l1": masks[0].sum(),
        "policy_kl_mask_l1": masks[1].sum(),
    }


def pair_columns(inputs: list[dict[str, Any]], epsilon: float = 0.01) -> dict[str, Tensor]:
    """The columns of all pairs, (pairs,)."""
    every = []
    for pair in inputs:
        shorter = min(len(pair[side]["tokens"]) for side in ("chosen", "rejected"))
        chosen, rejected = (side_columns(side, pair[side], epsilon, shorter) for side in ("chosen", "rejected"))
        norms = {name: chosen[name] + rejected[name] for name in chosen if name.endswith("_l1")}
        every.append({**chosen, **rejected, **norms})
    return {name: torch.stack([columns[name] for columns in every]) for name in every[0]}


def leaves_of(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: column.detach().requires_grad_() if name.startswith("policy_") else column
        for name, column in columns.items()
    }
