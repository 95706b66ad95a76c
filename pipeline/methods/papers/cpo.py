"""CPO: Xu et al. 2024, "Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance in MT"."""

from __future__ import annotations

from typing import Annotated

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.simpo import policy_rewards
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, LabelSmoothing
from scoreonce.pipeline.methods.pieces.logistic import smoothed_logistic
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn

LikelihoodWeight = Annotated[
    float, Allowed("the weight of the chosen completion's negative log-likelihood", at_least=0)
]


@objective(rewards=policy_rewards, normalisation="sum")
def cpo(
    normalised_policy_margin: StepColumn,
    policy_chosen_logps: StepColumn,
    chosen_len: StepColumn,
    beta: StepColumn,
    *,
    label_smoothing: LabelSmoothing = 0.0,
    cpo_alpha: LikelihoodWeight = 1.0,
) -> StepColumn:
    """-log sigmoid(beta (log pi(y_w) - log pi(y_l))) - cpo_alpha log pi(y_w) / |y_w|, per pair (pairs,).

    The preference term is on sums (`normalisation = "average"`: CPO-SimPO without a margin), the likelihood term per
    token of each completion, where TRL averages over the tokens of the batch. Label smoothing as in `dpo`. No
    reference is read.
    """
    logits = beta * normalised_policy_margin
    preference = smoothed_logistic(logits, label_smoothing)
    return preference - cpo_alpha * policy_chosen_logps / chosen_len


method(
    "cpo",
    "Reference-free DPO with a likelihood term on the chosen completion",
    paper=Paper(
        "Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance in Machine Translation",
        "2401.08417",
        "ICML 2024",
    ),
    objective=cpo,
)
