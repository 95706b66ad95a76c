"""BCO: Jung et al. 2025, "Binary Classifier Optimization for Large Language Model Alignment"."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.registry import objective, statistic
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards


@statistic(initial={"mean_logratio": 0.0, "mean_logratio_steps": 0.0})
def running_logratio(
    chosen_logratios: StepColumn,
    rejected_logratios: StepColumn,
    mean_logratio: StepColumn,
    mean_logratio_steps: StepColumn,
) -> tuple[StepColumn, StepColumn]:
    """Mean over steps of the steps' mean log-ratio, both sides, the current step included; and their number."""
    steps = mean_logratio_steps + 1
    mean = (chosen_logratios.mean() + rejected_logratios.mean()) / 2
    return mean_logratio + (mean - mean_logratio) / steps, steps


@objective(rewards=logratio_rewards)
def bco(
    chosen_logratios: StepColumn, rejected_logratios: StepColumn, mean_logratio: StepColumn, beta: StepColumn
) -> StepColumn:
    """-log sigmoid(beta a - delta) - log sigmoid(delta - beta c), per pair (pairs,); a, c the summed log-ratios.

    delta = beta times the running mean of both sides' log-ratios, each step counted once and the current one included,
    without gradient: TRL 0.13's `bco_pair`, with the optimizer step for its micro-batch. The paper's density-ratio
    weights for prompts (UDM) are not here. For delta = 0, TRL's from 1.0 on: `bco_pair`.
    """
    delta = mean_logratio
    return -logsigmoid(beta * (chosen_logratios - delta)) - logsigmoid(beta * (delta - rejected_logratios))


@objective(rewards=logratio_rewards)
def bco_pair(chosen_logratios: StepColumn, rejected_logratios: StepColumn, beta: StepColumn) -> StepColumn:
    """-log sigmoid(beta a) - log sigmoid(-beta c), per pair (pairs,): TRL's `bco_pair` from 1.0 on, without delta."""
    return -logsigmoid(beta * chosen_logratios) - logsigmoid(-beta * rejected_logratios)


BCO = Paper("Binary Classifier Optimization for Large Language Model Alignment", "2404.04656", "ACL 2025")
method(
    "bco",
    "Chosen and rejected told apart by a classifier with a running reward shift",
    paper=BCO,
    objective=bco,
)
method(
    "bco_pair",
    "Chosen and rejected told apart by a classifier, no reward shift",
    paper=BCO,
    objective=bco_pair,
)
