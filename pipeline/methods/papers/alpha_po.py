"""AlphaPO: Gupta et al. 2025, "AlphaPO: Reward Shape Matters for LLM Alignment"."""

from __future__ import annotations

from typing import Annotated

import torch

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.divergences import LARGEST
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Beta, LabelSmoothing
from scoreonce.pipeline.methods.pieces.logistic import smoothed_logistic
from scoreonce.pipeline.methods.pieces.registry import objective, rewards
from scoreonce.pipeline.methods.pieces.shapes import StepColumn

Shape = Annotated[float, Allowed("the shape of the reward; 0 is SimPO, above 0 weighs improbable responses more")]


def shaped(logps: StepColumn, alpha: float) -> StepColumn:
    """(1 - exp(-alpha x)) / alpha of x = `logps`; x for alpha = 0. The power is capped at e^80."""
    return -torch.expm1((-alpha * logps).clamp(max=LARGEST)) / alpha if alpha else logps


@rewards("chosen_rewards", "rejected_rewards")
def shaped_rewards(
    normalised_policy_chosen_logps: StepColumn,
    normalised_policy_rejected_logps: StepColumn,
    *,
    beta: Beta,
    alpha: Shape,
) -> tuple[StepColumn, StepColumn]:
    """beta r of each side, without the target margin."""
    return beta * shaped(normalised_policy_chosen_logps, alpha), beta * shaped(normalised_policy_rejected_logps, alpha)


@objective(rewards=shaped_rewards, beta=2.5, gamma_beta_ratio=0.1)
def alpha_po(
    normalised_policy_chosen_logps: StepColumn,
    normalised_policy_rejected_logps: StepColumn,
    beta: StepColumn,
    target_margin: StepColumn,
    *,
    alpha: Shape = 0.25,
    label_smoothing: LabelSmoothing = 0.0,
) -> StepColumn:
    """-(1 - e) log sigmoid(h) - e log sigmoid(-h), h = beta (r_w - r_l - target_margin), e: `label_smoothing`.

    Per pair, (pairs,). r = (1 - exp(-alpha u)) / alpha of u = log pi(y) / |y|, nats per token; r = u, SimPO, for alpha
    = 0. With alpha > 0 the gradient of an improbable response is the larger, with alpha < 0 the smaller. No reference
    is read. `gamma_beta_ratio` is gamma / beta as in `simpo`; TRL's `simpo_gamma`, with its loss type `alphapo`, is
    gamma itself. Defaults are those of the paper's Mistral-Instruct as TRL's documents give them, with 0.1 read as
    gamma / beta: that is its value in SimPO's recipe for that model. Not `alpha_dpo`, whose target margin follows the
    reference.
    """
    chosen, rejected = shaped(normalised_policy_chosen_logps, alpha), shaped(normalised_policy_rejected_logps, alpha)
    return smoothed_logistic(beta * (chosen - rejected - target_margin), label_smoothing)


method(
    "alpha_po",
    "SimPO with a reshaped reward (AlphaPO; not alpha_dpo)",
    paper=Paper("AlphaPO: Reward Shape Matters for LLM Alignment", "2501.03884", "ICML 2025"),
    objective=alpha_po,
    aliases={"alphapo": {}},
    learning_rate="7e-7 (Mistral-Instruct)",
)
