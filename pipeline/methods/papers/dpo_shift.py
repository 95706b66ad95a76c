"""DPO-Shift: Yang et al. 2025, "DPO-Shift: Shifting the Distribution of Direct Preference Optimization"."""

from __future__ import annotations

from typing import Annotated, Literal

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import PerStep, StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

Shift = Annotated[float, Allowed("what the rejected reward is multiplied by; 1 is DPO", above=0, at_most=1)]
Bound = Annotated[float, Allowed("an end of the schedule of lam", above=0, at_most=1)]
Schedule = Annotated[
    Literal["fixed", "increase_linear", "decrease_linear"],
    Allowed("whether lam stays, or goes from lam_min to lam_max, or back, over the steps of the run"),
]


def shift(progress: PerStep, schedule: str, lam: float, lam_min: float, lam_max: float) -> PerStep | float:
    """The factor after a share `progress` of the run's steps: lam, or linear between lam_min and lam_max."""
    match schedule:
        case "increase_linear":
            return lam_min + (lam_max - lam_min) * progress
        case "decrease_linear":
            return lam_max - (lam_max - lam_min) * progress
        case _:
            return lam


@objective(rewards=logratio_rewards, beta=0.01)
def dpo_shift(
    chosen_logratios: StepColumn,
    rejected_logratios: StepColumn,
    progress: StepColumn,
    beta: StepColumn,
    *,
    lam: Shift = 0.95,
    lam_schedule: Schedule = "fixed",
    lam_min: Bound = 0.5,
    lam_max: Bound = 1.0,
) -> StepColumn:
    """-log sigmoid(beta (a - lam c)), per pair (pairs,); a, c: summed log-ratios of chosen and rejected completion.

    A smaller rejected reward, policy and reference alike, keeps the chosen likelihood from falling; lam = 1 is DPO.
    `lam_schedule = "increase_linear"`: lam_min + (lam_max - lam_min) t / T, `"decrease_linear"`: lam_max minus the
    same term, t the optimizer steps already taken, T those of the run. That is the column `progress`, t / T, which
    training gives and no state keeps. The authors released models for lam 0.95 and for schedules between 0.95 and 1,
    and tried 0.5 to 1. Rewards are logged without lam.
    """
    factor = shift(progress, lam_schedule, lam, lam_min, lam_max)
    return -logsigmoid(beta * (chosen_logratios - factor * rejected_logratios))


method(
    "dpo_shift",
    "DPO with a smaller rejected reward, fixed or on a schedule",
    paper=Paper("DPO-Shift: Shifting the Distribution of Direct Preference Optimization", "2502.07599", "arXiv 2025"),
    objective=dpo_shift,
    synonyms={"dpo_lambda": "lam"},
    learning_rate="5e-7 (batch 128)",
)
