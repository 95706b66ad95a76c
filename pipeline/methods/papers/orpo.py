"""ORPO: Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model"."""

from __future__ import annotations

from typing import Annotated

import torch
from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective, rewards
from scoreonce.pipeline.methods.pieces.shapes import StepColumn

CERTAIN = -1e-12  # nats per token: log-probs closer to 0 than this have the same odds
OddsWeight = Annotated[float, Allowed("the weight of the odds ratio", above=0)]
LikelihoodWeight = Annotated[
    float, Allowed("the weight of the chosen completion's negative log-likelihood", at_least=0)
]


def _log_odds(logps: StepColumn, length: StepColumn) -> StepColumn:
    average = (logps / length).clamp(max=CERTAIN)
    return average - torch.log(-torch.expm1(average))


@rewards("chosen_rewards", "rejected_rewards")
def weighted_average_logps(
    policy_chosen_logps: StepColumn,
    chosen_len: StepColumn,
    policy_rejected_logps: StepColumn,
    rejected_len: StepColumn,
    *,
    lam: OddsWeight,
) -> tuple[StepColumn, StepColumn]:
    """lambda log pi(y) / |y| of each side, as TRL logs it."""
    return lam * policy_chosen_logps / chosen_len, lam * policy_rejected_logps / rejected_len


@objective(rewards=weighted_average_logps)
def orpo(
    policy_chosen_logps: StepColumn,
    policy_rejected_logps: StepColumn,
    chosen_len: StepColumn,
    rejected_len: StepColumn,
    *,
    lam: OddsWeight = 0.1,
    sft_weight: LikelihoodWeight = 1.0,
) -> StepColumn:
    """-log pi(y_w) / |y_w| - lambda log sigmoid(log odds(y_w) - log odds(y_l)), per pair (pairs,); lambda = `lam`.

    odds(y) = P / (1 - P), P = exp(log pi(y) / |y|). The likelihood term is over the completion alone; TRL's covers the
    prompt's tokens too, and averages over the tokens of the batch. P is kept below 1 by 1e-12. No reference is read.
    """
    gap = _log_odds(policy_chosen_logps, chosen_len) - _log_odds(policy_rejected_logps, rejected_len)
    return -sft_weight * policy_chosen_logps / chosen_len - lam * logsigmoid(gap)


method(
    "orpo",
    "Reference-free: likelihood of the chosen completion and an odds ratio",
    paper=Paper("ORPO: Monolithic Preference Optimization without Reference Model", "2403.07691", "EMNLP 2024"),
    objective=orpo,
    synonyms={"beta": "lam"},
)
