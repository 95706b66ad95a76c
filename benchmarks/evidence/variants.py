"""Ablations that the papers name and the catalogue of methods has no option for."""

from __future__ import annotations

from scoreonce.pipeline.methods.papers.alpha_dpo import NOISE, Alpha
from scoreonce.pipeline.methods.papers.beta_dpo import Floor, Scaling
from scoreonce.pipeline.methods.papers.simpo import policy_rewards, simpo
from scoreonce.pipeline.methods.pieces.hyperparameters import Beta, GammaBetaRatio
from scoreonce.pipeline.methods.pieces.registry import calibration, objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn


@calibration("beta", batch_coupled=False)
def pair_beta(
    margin: StepColumn, gap_mean: StepColumn, *, beta: Beta = 0.1, a: Scaling = 0.6, beta_floor: Floor = 1e-3
) -> StepColumn:
    """beta-DPO's max(beta_floor, beta (1 + a (margin - M0))) per pair (pairs,), its "instance level"."""
    return (beta * (1 + a * (margin - gap_mean))).clamp(min=beta_floor)


@calibration("target_margin", batch_coupled=False)
def raw_margin(
    normalised_margin: StepColumn, *, alpha: Alpha = 0.2, gamma_beta_ratio: GammaBetaRatio = 0.6
) -> StepColumn:
    """alpha-DPO's gamma_beta_ratio + alpha gap, the gap (nats per token) not standardised, per pair (pairs,)."""
    return gamma_beta_ratio + alpha * normalised_margin


@objective(rewards=policy_rewards, beta=2.5)
def live_margin(
    normalised_policy_margin: StepColumn,
    normalised_margin: StepColumn,
    normalised_gap_mean: StepColumn,
    normalised_gap_std: StepColumn,
    beta: StepColumn,
    target_margin: StepColumn,
    *,
    alpha: Alpha = 0.2,
) -> StepColumn:
    """alpha-DPO with gradient through its margin: simpo's loss at target_margin + alpha z, per pair (pairs,)."""
    z = (normalised_margin - normalised_gap_mean) / normalised_gap_std.clamp(min=NOISE)
    z = z.where(normalised_gap_std >= NOISE, 0.0)
    loss: StepColumn = simpo(normalised_policy_margin, beta, target_margin + alpha * z)
    return loss
