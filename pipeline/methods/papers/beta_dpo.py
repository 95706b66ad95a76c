"""beta-DPO: Wu et al. 2024, "beta-DPO: Direct Preference Optimization with Dynamic beta"."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.dpo import dpo
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Beta, Momentum
from scoreonce.pipeline.methods.pieces.reductions import moving_moments, weighted_mean
from scoreonce.pipeline.methods.pieces.registry import calibration, selection, statistic
from scoreonce.pipeline.methods.pieces.shapes import StepColumn

NOISE = 1e-3  # nats of margin: a smaller spread is rounding error, not a difference of pairs
Keep = Annotated[float, Allowed("the share of pairs kept in each step", above=0, at_most=1)]
Scaling = Annotated[float, Allowed("how strongly beta scales with the margins, per nat", at_least=0)]
Order = Annotated[Literal["code", "paper"], Allowed("whether a step's margins update the state before or after use")]
Floor = Annotated[float, Allowed("the lower bound of a batch's beta", above=0)]


@statistic(initial={"gap_mean": 0.0, "gap_std": 0.0}, after={"order": "paper"})
def gap_moments(
    margin: StepColumn, gap_mean: StepColumn, gap_std: StepColumn, *, momentum: Momentum = 0.9, order: Order = "code"
) -> tuple[StepColumn, StepColumn]:
    """Running mean M0 and unbiased std of `margin` (nats, without beta): m old + (1 - m) batch, from 0."""
    return moving_moments(margin, gap_mean, gap_std, momentum)


@selection(batch_coupled=True)
def gaussian_gap(
    margin: StepColumn, gap_mean: StepColumn, gap_std: StepColumn, exponential_draws: StepColumn, *, keep: Keep = 0.8
) -> StepColumn:
    """1 for max(1, int(N keep)) pairs drawn without replacement by exp(-z^2 / 2), z = (margin - M0) / std; else 0.

    The k largest of log w - log(Exp(1) draw): the distribution of sequential draws, without underflow. `keep` is the
    paper's rho, the code's 1 - mode_weight. A std below 1e-3 nats counts as 1e-3.
    """
    log_weight = -0.5 * ((margin - gap_mean) / gap_std.clamp(min=NOISE)).square()
    keys = log_weight - exponential_draws.clamp(min=torch.finfo(torch.float64).tiny).log()
    kept = max(1, int(len(margin) * keep + 1e-9))  # 100 * 0.29 is 28.999... in binary
    return torch.zeros_like(margin).index_fill(0, keys.topk(kept).indices, 1.0)


@calibration("beta", batch_coupled=True)
def batch_beta(
    margin: StepColumn,
    weight: StepColumn,
    gap_mean: StepColumn,
    *,
    beta: Beta = 0.1,
    a: Scaling = 0.6,
    beta_floor: Floor = 1e-3,
    order: Order = "code",
) -> StepColumn:
    """max(beta_floor, beta (1 + a (mean of the selected margins - M0))), one for the step, without gradient.

    As in the code, the state is updated, then selects pairs, which give beta; per step, there per micro-batch.
    `order = "paper"`: M0 and std are updated after use; the mean is over all pairs and of beta Delta: a becomes a beta.
    """
    a, weight = (a * beta, torch.ones_like(margin)) if order == "paper" else (a, weight)
    return (beta * (1 + a * (weighted_mean(margin, weight, otherwise=gap_mean) - gap_mean))).clamp(min=beta_floor)


method(
    "beta_dpo",
    "DPO with a beta per batch, and outlying margins filtered out",
    paper=Paper("β-DPO: Direct Preference Optimization with Dynamic β", "2407.08639", "NeurIPS 2024"),
    objective=dpo,
    calibration=batch_beta,
    selection=gaussian_gap,
    synonyms={"beta0": "beta", "alpha": "a", "rho": "keep"},
    learning_rate="5e-7 (RMSprop, Pythia-2.8B, batch 64)",
)
