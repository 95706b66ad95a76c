"""The metrics of a training step; their names are in `schemas.metrics`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from scoreonce.pipeline.methods import Outcome
from scoreonce.schemas import metrics as names


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
        names.REWARDS_CHOSEN: chosen,
        names.REWARDS_REJECTED: rejected,
        names.MARGINS: margins.mean() if paired else chosen - rejected,
        names.ACCURACIES: torch.where(margins.isnan(), torch.nan, (margins > 0).double()).mean(),
        **{
            names.LOGPS[side]: _mean(columns[name], present)
            for side, present in sides.items()
            if (name := f"policy_{side}_logps") in columns
        },
        **({names.AUX_LOSS: columns["router_aux_loss"]} if "router_aux_loss" in columns else {}),
        names.BETA_MEAN: outcome.beta.mean(),
        names.BETA_MIN: outcome.beta.min(),
        names.BETA_MAX: outcome.beta.max(),
        names.TARGET_MARGIN: outcome.target_margin.mean(),
        names.KEPT: (outcome.weight > 0).double().mean(),
        **{names.state(name): value for name, value in outcome.state.items() if not value.ndim},  # a queue is no number
    }
    numbers = torch.stack([value.detach().double().cpu() for value in (outcome.loss, *values.values())]).tolist()
    return {
        names.LOSS: numbers[0],
        **{name: number for name, number in zip(values, numbers[1:], strict=True) if not math.isnan(number)},
    }


def _mean(column: Tensor, present: Tensor | None) -> Tensor:
    """Mean over the pairs, or over those that are present; NaN for none."""
    return column.mean() if present is None else column[present.expand_as(column) > 0].mean()
