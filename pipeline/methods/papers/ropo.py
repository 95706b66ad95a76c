"""ROPO: Liang et al. 2024, "ROPO: Robust Preference Optimization for Large Language Models"."""

from __future__ import annotations

from typing import Annotated

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

Robustness = Annotated[
    float, Allowed("how strongly contradicted pairs are suppressed; the loss vanishes towards 0", above=0)
]


@objective(rewards=logratio_rewards)
def ropo(linked_margin: StepColumn, beta: StepColumn, *, alpha: Robustness = 14.0) -> StepColumn:
    """4 alpha / (1 + alpha)^2 (-log sigmoid(x) + alpha sigmoid(-x)), x = beta Delta, per pair (pairs,).

    The gradient's weight is at most 1, near x = 0 for alpha = 14, and falls again for x far below 0, to
    4 alpha / (1 + alpha)^2: pairs that the policy strongly contradicts are taken for noise. The loss alone: ROPO's
    filter of the pairs with the highest loss, and its new samples for them, are work on the data. The authors' code was
    not found; the form is that of two independent implementations, which give alpha 6 to 30. Delta as in `dpo`. Not
    `robust` (rDPO), which knows the share of flipped labels, nor RPO, which adds a likelihood term.
    """
    logits = beta * linked_margin
    return 4 * alpha / (1 + alpha) ** 2 * (-logsigmoid(logits) + alpha * (-logits).sigmoid())


method(
    "ropo",
    "DPO that suppresses pairs which the policy strongly contradicts (ROPO; not rDPO or RPO)",
    paper=Paper("ROPO: Robust Preference Optimization for Large Language Models", "2404.04102", "ICML 2025"),
    objective=ropo,
)
