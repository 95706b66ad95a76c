"""BCO: Jung et al. 2025, "Binary Classifier Optimization for Large Language Model Alignment"."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import CompletionWeight
from scoreonce.pipeline.methods.pieces.registry import objective, statistic
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards


@statistic(initial={"mean_logratio": 0.0, "mean_logratio_steps": 0.0})
def running_logratio(
    chosen_logratios: StepColumn,
    rejected_logratios: StepColumn,
    has_chosen: StepColumn,
    has_rejected: StepColumn,
    mean_logratio: StepColumn,
    mean_logratio_steps: StepColumn,
) -> tuple[StepColumn, StepColumn]:
    """Mean over steps of the steps' mean log-ratio, both sides, the current step included; and their number."""
    steps = mean_logratio_steps + 1
    total = (has_chosen * chosen_logratios + has_rejected * rejected_logratios).mean()
    mean = total / (has_chosen + has_rejected).mean()
    return mean_logratio + (mean - mean_logratio) / steps, steps


@objective(rewards=logratio_rewards)
def bco(
    chosen_logratios: StepColumn,
    rejected_logratios: StepColumn,
    mean_logratio: StepColumn,
    has_chosen: StepColumn,
    has_rejected: StepColumn,
    beta: StepColumn,
    *,
    desirable_weight: CompletionWeight = 1.0,
    undesirable_weight: CompletionWeight = 1.0,
) -> StepColumn:
    """-l_D log sigmoid(beta a - delta) - l_U log sigmoid(delta - beta c), per pair (pairs,).

    a, c: summed log-ratios of chosen and rejected completion, of which unpaired data have one; l_D, l_U the weights.
    delta = beta times the running mean of both sides' log-ratios, each step counted once and the current one included,
    without gradient: TRL 0.13's `bco_pair`, with the optimizer step for its micro-batch. The paper's density-ratio
    weights for prompts (UDM) are not here. For delta = 0, TRL's from 1.0 on: `bco_pair`.
    """
    chosen, rejected = chosen_logratios - mean_logratio, rejected_logratios - mean_logratio
    return bco_pair(
        chosen,
        rejected,
        has_chosen,
        has_rejected,
        beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
    )


@objective(rewards=logratio_rewards)
def bco_pair(
    chosen_logratios: StepColumn,
    rejected_logratios: StepColumn,
    has_chosen: StepColumn,
    has_rejected: StepColumn,
    beta: StepColumn,
    *,
    desirable_weight: CompletionWeight = 1.0,
    undesirable_weight: CompletionWeight = 1.0,
) -> StepColumn:
    """-l_D log sigmoid(beta a) - l_U log sigmoid(-beta c), per pair (pairs,): TRL's from 1.0 on, without delta."""
    desirable = has_chosen * -logsigmoid(beta * chosen_logratios)
    undesirable = has_rejected * -logsigmoid(-beta * rejected_logratios)
    return desirable_weight * desirable + undesirable_weight * undesirable


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
