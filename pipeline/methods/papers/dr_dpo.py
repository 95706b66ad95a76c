"""Dr. DPO: Wu et al. 2025, "Towards Robust Alignment of Language Models: Distributionally Robustifying DPO"."""

from __future__ import annotations

from typing import Annotated

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.dpo import dpo
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import reduction
from scoreonce.pipeline.methods.pieces.shapes import PerStep, StepColumn

Softness = Annotated[float, Allowed("how soft the minimum over the step's losses is; infinite is their mean", above=0)]


@reduction
def soft_minimum(loss: StepColumn, weight: StepColumn, *, beta_prime: Softness = 1.0) -> PerStep:
    """-b log(sum weight exp(-loss / b) / sum weight), 0-d, b = `beta_prime`: the loss of the step.

    Its gradient is that of the losses times softmax(-loss / b): pairs with a high loss, likely to be mislabelled,
    count less (`kl_dpo` does the opposite, and `r_dpo` and `robust` are neither). For b to infinity it is the mean,
    for b to 0 the smallest loss. Computed by log-sum-exp: the code's exp, mean and log give an infinite loss where all
    losses are above 103 b in float32.
    """
    total, kept = weight.sum(), weight.log()  # of a pair that is filtered out, the weight is 0: minus infinity
    if not total > 0:
        return total
    return -beta_prime * ((kept - loss / beta_prime).logsumexp(0) - total.log())


method(
    "dr_dpo",
    "DPO whose step loss is a soft minimum, so that pairs with a high loss count less (Dr. DPO)",
    paper=Paper(
        "Towards Robust Alignment of Language Models: Distributionally Robustifying Direct Preference Optimization",
        "2407.07880",
        "ICLR 2025",
    ),
    objective=dpo,
    reduction=soft_minimum,
    synonyms={"mode_weight": "beta_prime"},
    learning_rate="5e-7 (RMSprop, Pythia-2.8B, batch 64)",
)
