"""DiscoPOP: Lu et al. 2024, "Discovering Preference Optimization Algorithms with and for Large Language Models"."""

from __future__ import annotations

from typing import Annotated

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

Tau = Annotated[
    float,
    Allowed("the width of the transition between the losses; up to 1 the loss is bounded", above=0, at_most=1),
]


@objective(rewards=logratio_rewards, beta=0.05)
def discopop(linked_margin: StepColumn, beta: StepColumn, *, tau: Tau = 0.05) -> StepColumn:
    """-(1 - m) log sigmoid(x) + m e^-x, m = sigmoid(x / tau), x = beta Delta, per pair (pairs,): LRML, Eq. 5.

    Not convex: it has a local bump at x slightly below 0, by design of the search that found it. m e^-x is computed as
    one exponential, which is bounded where e^-x alone overflows. Delta as in `dpo`.
    """
    logits = beta * linked_margin
    mixed = logits / tau
    return -(-mixed).sigmoid() * logsigmoid(logits) + (logsigmoid(mixed) - logits).exp()


method(
    "discopop",
    "A discovered mix of the logistic and the exponential loss (LRML)",
    paper=Paper(
        "Discovering Preference Optimization Algorithms with and for Large Language Models",
        "2406.08414",
        "NeurIPS 2024",
    ),
    objective=discopop,
    aliases={"lrml": {}},
    synonyms={"discopop_tau": "tau"},
)
