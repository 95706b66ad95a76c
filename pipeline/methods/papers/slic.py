"""SLiC-HF: Zhao et al. 2023, "SLiC-HF: Sequence Likelihood Calibration with Human Feedback"."""

from __future__ import annotations

from typing import Annotated

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn

Delta = Annotated[float, Allowed("the target margin between the summed log-probs, in nats", at_least=0)]
Regularisation = Annotated[float, Allowed("the weight of the chosen completion's negative log-likelihood", at_least=0)]


@objective()
def slic(
    policy_chosen_logps: StepColumn, policy_rejected_logps: StepColumn, *, delta: Delta = 1.0, lam: Regularisation = 0.1
) -> StepColumn:
    """max(0, delta - log pi(y_w) + log pi(y_l)) - lambda log pi(y_w), per pair (pairs,); sums, in nats.

    The paper regularises on the SFT target; here, as in HALOs, that is the chosen completion (delta 1, lambda 0.1).
    No reference is read; with the reference in it, it is `hinge`. It has no implicit reward.
    """
    return (delta - policy_chosen_logps + policy_rejected_logps).relu() - lam * policy_chosen_logps


method(
    "slic",
    "Reference-free hinge on summed log-probs, with a likelihood term (SLiC-HF)",
    paper=Paper("SLiC-HF: Sequence Likelihood Calibration with Human Feedback", "2305.10425", "arXiv 2023"),
    objective=slic,
    aliases={"slic_hf": {}},
)
