"""AMaPO: Deng et al. 2025, "AMaPO: Adaptive Margin-attached Preference Optimization"."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.simpo import simpo
from scoreonce.pipeline.methods.pieces.divergences import LARGEST
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Beta
from scoreonce.pipeline.methods.pieces.registry import calibration
from scoreonce.pipeline.methods.pieces.shapes import StepColumn

NOISE = 1e-6  # nats per token: a smaller spread is rounding error, not a difference of pairs
Form = Annotated[Literal["code", "paper"], Allowed("whose margin: the code's and the paper's pick different pairs")]


@calibration("target_margin", batch_coupled=True)
def batch_margin(normalised_policy_margin: StepColumn, *, beta: Beta = 0.1, form: Form = "code") -> StepColumn:
    """exp(z mu) where u < mu, else 0, per pair, without gradient; z = (mu - u) / s, mu and s of u over the step.

    u = log pi(y_w) / |y_w| - log pi(y_l) / |y_l|, nats per token; s is the unbiased standard deviation. With SimPO's
    loss that is -log sigmoid(beta u - m), m = beta exp(z mu): the code's, whose margin jumps from 0 to beta at u = mu.
    `form = "paper"` takes mu of beta u, exp(z beta mu), where that exponent is above 0. For mu < 0, common early, the
    two pick opposite pairs: the paper those above the mean, the code those below, with m < beta. One pair, or gaps
    that are all equal, have no margin. Exponents are capped at 80. The batch is the optimizer step.
    """
    mean = normalised_policy_margin.mean()
    std = normalised_policy_margin.std() if len(normalised_policy_margin) > 1 else torch.zeros_like(mean)
    z = (mean - normalised_policy_margin) / std.clamp(min=NOISE)
    exponent = z * mean * (beta if form == "paper" else 1.0)
    picked = exponent > 0 if form == "paper" else z > 0
    return torch.where(picked & (std > NOISE), exponent.clamp(max=LARGEST).exp(), 0.0)


method(
    "amapo",
    "SimPO with a margin for the pairs below the step's mean (AMaPO)",
    paper=Paper(
        "AMaPO: Adaptive Margin-attached Preference Optimization for Language Model Alignment",
        "2511.09385",
        "arXiv 2025",
    ),
    objective=simpo,
    calibration=batch_margin,
    learning_rate="4e-7 (Mistral-Base, beta 2.0), 6e-7 (Mistral-Instruct, 2.0; Llama-3-Base, 2.5), 1e-6 "
    "(Llama-3-Instruct, 3.0); batch 128",
)
