"""χPO: Huang et al. 2025, "Correcting the Mythos of KL-Regularization: ... via Chi-Squared Preference Optimization"."""

from __future__ import annotations

from typing import Annotated

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

LARGEST = 20.0  # nats of log-ratio inside the exponential: e^20 is finite in float32 and bfloat16
RMax = Annotated[float, Allowed("the largest reward: differences are clipped at twice this", above=0)]


@objective(rewards=logratio_rewards, beta=0.05)
def chi_po(
    chosen_logratios: StepColumn, rejected_logratios: StepColumn, beta: StepColumn, *, r_max: RMax = 1.0
) -> StepColumn:
    """-log sigmoid(clip(beta (phi(u_w) - phi(u_l)), -2 R, 2 R)), phi(u) = u + log u, u = pi / ref, per pair (pairs,).

    R = `r_max`. Outside the clip the gradient is zero, by design. The exponential in phi is of at most 20 nats. The
    paper leaves R open and there is no official code; a third party takes 1, and clips each side instead of the
    difference. The paper's beta for TL;DR is 0.05, or 0.005.
    """
    chosen, rejected = ((a.clamp(max=LARGEST).exp() + a) for a in (chosen_logratios, rejected_logratios))
    return -logsigmoid((beta * (chosen - rejected)).clamp(-2 * r_max, 2 * r_max))


method(
    "chi_po",
    "DPO with a chi-squared term beside the KL constraint, against over-optimisation",
    paper=Paper(
        "Correcting the Mythos of KL-Regularization: Direct Alignment without Overoptimization via "
        "Chi-Squared Preference Optimization",
        "2407.13399",
        "ICLR 2025",
    ),
    objective=chi_po,
    aliases={"chipo": {}},
    synonyms={"R_max": "r_max", "rmax": "r_max"},
)
