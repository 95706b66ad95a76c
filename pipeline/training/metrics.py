"""The metrics of a training step, named as in TRL's dashboards."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from scoreonce.pipeline.methods import Outcome


def step_metrics(outcome: Outcome, columns: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over the pairs of a step; `rewards/*` and `logps/*` over all pairs, filtered ones included.

    There is no entry for what the method does not have (SFT has no beta). `aux_loss`, of routers, is without its
    coefficient, and not part of `loss`.
    """
    margins = outcome.chosen_rewards - outcome.rejected_rewards
    values = {
        "rewards/chosen": outcome.chosen_rewards.mean(),
        "rewards/rejected": outcome.rejected_rewards.mean(),
        "rewards/margins": margins.mean(),
        "rewards/accuracies": torch.where(margins.isnan(), torch.nan, (margins > 0).double()).mean(),
        **{
            f"logps/{side}": columns[name].mean()
            for side in ("chosen", "rejected")
            if (name := f"policy_{side}_logps") in columns
        },
        **({"aux_loss": columns["router_aux_loss"]} if "router_aux_loss" in columns else {}),
        "beta/mean": outcome.beta.mean(),
        "beta/min": outcome.beta.min(),
        "beta/max": outcome.beta.max(),
        "target_margin/mean": outcome.target_margin.mean(),
        "selection/kept": (outcome.weight > 0).double().mean(),
        **{f"state/{name}": value for name, value in outcome.state.items()},
    }
    numbers = torch.stack([value.detach().double().cpu() for value in (outcome.loss, *values.values())]).tolist()
    return {
        "loss": numbers[0],
        **{name: number for name, number in zip(values, numbers[1:], strict=True) if not math.isnan(number)},
    }
