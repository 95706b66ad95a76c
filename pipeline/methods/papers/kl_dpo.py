"""KLDPO: Xu et al. 2025, "Robust LLM Alignment via Distributionally Robust Direct Preference Optimization"."""

from __future__ import annotations

from typing import Annotated, Literal

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.dpo import dpo
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.reductions import weighted_mean
from scoreonce.pipeline.methods.pieces.registry import reduction
from scoreonce.pipeline.methods.pieces.shapes import PerStep, StepColumn

LARGEST_WEIGHT = 10.0  # of the code
Radius = Annotated[float, Allowed("the temperature of the weights; a small one follows the largest losses", above=0)]
Form = Annotated[
    Literal["code", "normalised"], Allowed("whether the weights are capped and not normalised (code), or have mean 1")
]


@reduction
def worst_case(loss: StepColumn, weight: StepColumn, *, tau: Radius = 1.0, reweighting: Form = "code") -> PerStep:
    """mean(v loss), 0-d, v = min(10, exp((loss - mean loss) / tau)) without gradient; means are over the weights.

    Pairs with a high loss count more, the opposite of `dr_dpo`. As in the code the v are not normalised: their mean is
    1.00 for tau = 1 and 3.5 for tau = 0.005 on a batch that was measured, so that tau scales the learning rate too.
    `reweighting = "normalised"`: v = N softmax(loss / tau), a reading of the paper, whose v have mean 1 and no cap.
    """
    mean = weighted_mean(loss, weight, otherwise=weight.sum()).detach()
    if reweighting == "normalised":
        largest = loss.detach().where(weight > 0, mean).max()
        tilted = weight * ((loss.detach() - largest) / tau).exp()
        return weighted_mean(loss, tilted, otherwise=mean)
    tilt = ((loss.detach() - mean) / tau).exp().clamp(max=LARGEST_WEIGHT)
    return weighted_mean(tilt * loss, weight, otherwise=mean)


method(
    "kl_dpo",
    "DPO weighted towards the pairs with a high loss, the worst case within a KL ball (KLDPO)",
    paper=Paper(
        "Robust LLM Alignment via Distributionally Robust Direct Preference Optimization", "2502.01930", "NeurIPS 2025"
    ),
    objective=dpo,
    reduction=worst_case,
    defaults={"beta": 0.01},
    aliases={"kldpo": {}},
    learning_rate="5e-7 (batch 128; tau 0.05 in the README, 0.005 in the paper's table)",
)
