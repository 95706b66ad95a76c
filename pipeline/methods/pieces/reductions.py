"""Reductions over the pairs of a step that several papers share. What uses them couples the pairs of a batch."""

from __future__ import annotations

import torch

from scoreonce.pipeline.methods.pieces.shapes import PerPair, PerStep, StepColumn


def weighted_mean(values: StepColumn, weight: PerPair, *, otherwise: PerStep) -> PerStep:
    """sum(weight * values) / sum(weight), 0-d; `otherwise` where all weights are 0."""
    total = weight.sum()
    return torch.where(total > 0, (weight * values).sum() / torch.where(total > 0, total, 1), otherwise)


def moving_moments(values: PerPair, mean: PerStep, std: PerStep, momentum: float) -> tuple[PerStep, PerStep]:
    """Running mean and standard deviation after one more step: m * old + (1 - m) * of these values; both 0-d.

    The standard deviation is unbiased (ddof 1) and not corrected for its start at 0. One value has none: the old one
    stays, where the papers' code turns to NaN for ever.
    """
    mean = momentum * mean + (1 - momentum) * values.mean()
    return mean, momentum * std + (1 - momentum) * values.std() if len(values) > 1 else std
