"""The metrics of a training step, named as in TRL's dashboards."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from scoreonce.pipeline.methods import Outcome


def step_metrics(outcome: Outcome, columns: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over the pairs of a step; `rewards/*` and `logps/*` over all pairs, filtered ones included.

    There is no entry for what the method does not have (SFT has no beta). In unpaired data each side's means are over
    the rows that have it, and `rewards/margins` is their difference. `aux_loss`, of routers, is without its
    coefficient, and not part of `loss`.
    """
    margins = outcome.chosen_rewards - outcome.rejected_rewards
    sides = {side: columns.get(f"has_{side}") for side in ("chosen", "rejected")}
    paired = all(present is None or bool(present.all()) for present in sides.values())
    chosen, rejected = (
        _mean(outcome.chosen_rewards, sides["chosen"]),
        _mean(outcome.rejected_rewards, sides["rejected"]),
    )
    values = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": margins.mean() if paired else chosen - rejected,
        "rewards/accuracies": torch.where(margins.isnan(), torch.nan, (margins > 0).double()).mean(),
        **{
            f"logps/{side}": _mean(columns[name], present)
            for side, present in sides.items()
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


def _mean(column: Tensor, present: Tensor | None) -> Tensor:
    """Mean over the pairs, or over those that are present; NaN for none."""
    return column.mean() if present is None else column[present.expand_as(column) > 0].mean()
