"""APO: D'Oosterlinck et al. 2024, "Anchored Preference Optimization and Contrastive Revisions"."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards


@objective(rewards=logratio_rewards)
def apo_zero(chosen_logratios: StepColumn, rejected_logratios: StepColumn, beta: StepColumn) -> StepColumn:
    """1 - sigmoid(beta a) + sigmoid(beta c), per pair (pairs,); a, c the summed log-ratios (APO Eq. 7).

    Raises the chosen likelihood and lowers the rejected one: for chosen completions better than the model's.
    """
    return 1 - (beta * chosen_logratios).sigmoid() + (beta * rejected_logratios).sigmoid()


@objective(rewards=logratio_rewards)
def apo_down(margin: StepColumn, chosen_logratios: StepColumn, beta: StepColumn) -> StepColumn:
    """sigmoid(beta a) + 1 - sigmoid(beta (a - c)), per pair (pairs,); a, c the summed log-ratios (APO Eq. 8).

    Lowers both likelihoods, the rejected one more: for a model that is better than both completions.
    """
    return (beta * chosen_logratios).sigmoid() + 1 - (beta * margin).sigmoid()


APO = Paper(
    "Anchored Preference Optimization and Contrastive Revisions: Addressing Underspecification in Alignment",
    "2408.06266",
    "TACL 2025",
)
method(
    "apo_zero",
    "Chosen up, rejected down, each anchored to the reference",
    paper=APO,
    objective=apo_zero,
    learning_rate="2e-7",
)
method(
    "apo_down",
    "Chosen down, rejected further down, anchored to the reference",
    paper=APO,
    objective=apo_down,
    learning_rate="2e-7",
)
