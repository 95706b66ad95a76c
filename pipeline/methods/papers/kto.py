"""KTO: Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization"."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import CompletionWeight
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards


@objective(rewards=logratio_rewards, batch_coupled=True)
def kto(
    chosen_logratios: StepColumn,
    rejected_logratios: StepColumn,
    kl_logratios: StepColumn,
    has_chosen: StepColumn,
    has_rejected: StepColumn,
    beta: StepColumn,
    *,
    desirable_weight: CompletionWeight = 1.0,
    undesirable_weight: CompletionWeight = 1.0,
) -> StepColumn:
    """(l_D (1 - sigmoid(beta (a - z))) + l_U (1 - sigmoid(beta (z - c)))) / 2, per pair (pairs,).

    a, c: summed log-ratios of the desirable (chosen) and the undesirable (rejected) completion; l_D, l_U the weights.
    z = max(0, mean log-ratio of the mismatched completions), over the optimizer step, without gradient: the estimate
    of the KL divergence. A mismatched completion is another prompt's, `policy_kl_logps` and `ref_kl_logps`; TRL takes
    the next one of each micro-batch, here the pairing is fixed when the reference is scored. The loss of a pair is the
    mean over its completions, one in unpaired data, so that the step's loss is the mean over completions, as TRL's and
    HALOs'. For unequal numbers the paper keeps l_D n_D / (l_U n_U) within [1, 4/3].
    """
    z = kl_logratios.detach().mean().clamp(min=0)
    desirable = has_chosen * (1 - (beta * (chosen_logratios - z)).sigmoid())
    undesirable = has_rejected * (1 - (beta * (z - rejected_logratios)).sigmoid())
    return (desirable_weight * desirable + undesirable_weight * undesirable) / (has_chosen + has_rejected)


method(
    "kto",
    "Each completion good or bad on its own, against an estimate of the KL divergence",
    paper=Paper("KTO: Model Alignment as Prospect Theoretic Optimization", "2402.01306", "ICML 2024"),
    objective=kto,
    synonyms={"lambda_d": "desirable_weight", "lambda_u": "undesirable_weight"},
)
