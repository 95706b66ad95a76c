"""alpha-DPO: Wu et al. 2025, "AlphaDPO: Adaptive Reward Margin for Direct Preference Optimization"."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.simpo import simpo
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Beta, GammaBetaRatio, Momentum
from scoreonce.pipeline.methods.pieces.reductions import moving_moments
from scoreonce.pipeline.methods.pieces.registry import calibration, rewards, statistic
from scoreonce.pipeline.methods.pieces.shapes import StepColumn

NOISE = 1e-6  # nats per token: a smaller spread is rounding error, not a difference of pairs
Z = Annotated[Literal["running", "batch"], Allowed("the mean and std that standardise the gaps")]
Scale = Annotated[Literal["code", "paper"], Allowed("whether alpha is multiplied by beta (code) or not (paper)")]
Alpha = Annotated[float, Allowed("the weight of the pair's own gap in the target margin", at_least=0)]


@statistic(initial={"normalised_gap_mean": 0.0, "normalised_gap_std": 0.0})
def normalised_gap_moments(
    normalised_margin: StepColumn,
    normalised_gap_mean: StepColumn,
    normalised_gap_std: StepColumn,
    *,
    momentum: Momentum = 0.9,
) -> tuple[StepColumn, StepColumn]:
    """Running mean and unbiased std of the gap u_pi - u_ref (nats per token), from 0, updated before use."""
    return moving_moments(normalised_margin, normalised_gap_mean, normalised_gap_std, momentum)


@rewards("chosen_rewards", "rejected_rewards")
def alpha_rewards(
    normalised_policy_chosen_logps: StepColumn,
    normalised_policy_rejected_logps: StepColumn,
    normalised_chosen_logratios: StepColumn,
    normalised_rejected_logratios: StepColumn,
    *,
    beta: Beta,
    alpha: Alpha,
) -> tuple[StepColumn, StepColumn]:
    """beta (avg log pi - alpha (avg log pi - avg log ref)) of each side, as the code logs it."""
    return (
        beta * (normalised_policy_chosen_logps - alpha * normalised_chosen_logratios),
        beta * (normalised_policy_rejected_logps - alpha * normalised_rejected_logratios),
    )


@calibration("target_margin", batch_coupled=False, rewards=alpha_rewards)
def alpha_margin(
    normalised_margin: StepColumn,
    normalised_gap_mean: StepColumn,
    normalised_gap_std: StepColumn,
    *,
    beta: Beta = 0.1,
    alpha: Alpha = 0.2,
    gamma_beta_ratio: GammaBetaRatio = 0.6,
    z_score: Z = "running",
    alpha_scale: Scale = "code",
) -> StepColumn:
    """gamma_beta_ratio + alpha z, per pair (pairs,), without gradient; z = (gap - running mean) / running std.

    The code writes beta (u - gamma/beta - alpha z), the paper beta u - gamma - alpha z: `alpha_scale = "paper"` divides
    alpha by beta. The paper standardises by the batch (`z_score = "batch"`); the code, the default, by running
    moments whose std starts at 0, so that z is 10 times too large in the first step. Where the std is below 1e-6
    (policy = reference) z = 0, not NaN. The batch is the optimizer step. With alpha = 0 it is SimPO.
    Not `alpha_po` (AlphaPO), which reshapes SimPO's reward and reads no reference.
    """
    mean, std = normalised_gap_mean, normalised_gap_std
    if z_score == "batch":
        mean, std = moving_moments(normalised_margin, torch.zeros_like(mean), torch.zeros_like(std), momentum=0.0)
    z = torch.where(std < NOISE, 0.0, (normalised_margin - mean) / std.clamp(min=NOISE))
    return gamma_beta_ratio + alpha * z / (beta if alpha_scale == "paper" else 1.0)


method(
    "alpha_dpo",
    "SimPO with a target margin per pair, from its gap to the reference",
    paper=Paper("AlphaDPO: Adaptive Reward Margin for Direct Preference Optimization", "2410.10148", "ICML 2025"),
    objective=simpo,
    calibration=alpha_margin,
    defaults={"beta": 2.5},
    learning_rate="1e-6 (Llama-3-8B-Instruct), 6e-7 (Mistral-7B-Instruct), 8e-7 (Gemma-2-9B-it); batch 128",
)
